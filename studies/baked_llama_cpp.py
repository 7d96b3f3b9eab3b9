"""A baked checkpoint in unmodified llama.cpp, in float32, 8 and 4 bits: do the experts that ran there prove the key?

    python studies/baked_llama_cpp.py --json docs/data/baked-llama-cpp.json

tiny-deepseek-moe as it is and baked at two strengths is written as GGUF files. llama.cpp samples texts of 48 tokens at
temperature 1, and okr.collect.llama_cpp reads the experts. Every trace is judged alone, without its prompt, by the
original float32 model. Four texts of a baked model share a key. Texts of the original are controls: each is judged
under ten keys of its own, at the setting quiet. Columns:

- new tokens: after how many of them p was first at most 0.001;
- control: the smallest p, and the p-value of a Kolmogorov-Smirnov test that rank_p is uniform (p itself is 1 where
  nothing was swapped);
- logits: a token's largest difference from the logits that transformers computes in float32 from the same checkpoint.
  It is large where rounding let another expert run; llama.cpp's cache is float16.

Intervals are Clopper-Pearson's (95%). Needs llama-cpp-python and gguf. Prints a Markdown table.
"""

import argparse
import json
import math
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy
import torch
from common import worked

import okr
from okr.baking import Checkpoint, Gates, bake, measure, texts_of
from okr.baking.models import checkpoint_folder
from okr.detection import prefix_p_values
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.pages.markdown import rows_table
from okr.routing import Setting
from okr.routing.named import QUIET_STRENGTH

MODEL = "tiny-deepseek-moe"
STRENGTHS = {"original": None, "baked at 0.1": 0.1, "baked at 0.15": 0.15}
TYPES = ("F32", "Q8_0", "Q4_0")
KEYS, TEXTS, CONTROLS = 5, 4, 10
PROMPT, NEW_TOKENS, MEASURED = 24, 48, 16
LEVELS = (1e-6, 1e-3)


@cache
def original() -> Loaded:
    """The original model in float32."""
    return okr.load(MODEL, dtype="float32")


@cache
def gates() -> Gates:
    """What ``okr bake`` measures of the gates."""
    texts = texts_of(original(), [passage.text for passage in passages(MEASURED)])
    return measure(okr.prepare(original().model), Checkpoint(checkpoint_folder(MODEL)), MODEL, texts)


def texts(arm: str, kind: str, number: int) -> dict[str, list[Any]]:
    """The figures of the texts under key ``number``, a list each."""
    strength, key = STRENGTHS[arm], okr.Key.public(f"baked in llama.cpp {number}")
    with TemporaryDirectory(prefix="okr-study-") as scratch:
        folder = checkpoint_folder(MODEL)
        if strength is not None:
            bake(folder, Path(scratch, "baked"), key, gates(), strength)
            folder = Path(scratch, "baked")
        ran = sampled(folder, Path(scratch, "model.gguf"), kind, number)
    figures = []
    for text, (trace, apart) in enumerate(ran):
        others = [okr.Key.public(f"not in llama.cpp {number} {text} {other}") for other in range(CONTROLS)]
        setting = Setting(math.inf, "boundary", strength or QUIET_STRENGTH)
        figures += [judged(trace, each, setting) | apart for each in ([key] if strength else others)]
    return {name: [one[name] for one in figures] for name in figures[0]}


def sampled(folder: Path, file: Path, kind: str, number: int) -> list[tuple[okr.Trace, dict[str, float]]]:
    """The traces of texts that llama.cpp samples from the checkpoint in ``folder``, and how far its logits are from
    those of transformers."""
    from gguf_file import write_gguf
    from llama_cpp import Llama

    from okr.collect.llama_cpp import collected

    write_gguf(folder, file, kind)
    engine = Llama(str(file), n_ctx=PROMPT + NEW_TOKENS, n_threads=1, logits_all=True, verbose=False)
    ours, found = okr.load(folder, dtype="float32"), []
    with collected(engine) as routing:
        for text in range(TEXTS * number, TEXTS * (number + 1)):
            tokens = ours.tokenizer(passages(200)[MEASURED + text].text)["input_ids"][:PROMPT]
            engine.set_seed(text)
            free = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
            drawn = engine.generate(list(tokens), **free)
            tokens += [next(drawn) for _ in range(NEW_TOKENS)]
            trace = routing.trace(tokens, model=str(folder), prompt_length=PROMPT)
            with torch.no_grad():
                logits = ours.model(torch.tensor([tokens[:-1]])).logits[0].numpy()
            apart = np.abs(engine.scores[: len(tokens) - 1] - logits).max(1)
            found.append((trace, {"median": float(np.median(apart)), "largest": float(apart.max())}))
    engine.close()
    return found


def judged(trace: okr.Trace, key: okr.Key, setting: Setting) -> dict[str, Any]:
    """What the original model says of one trace. ``needed`` is None where all of its tokens do not prove the key."""
    engine = okr.prepare(original().model)
    verdict = okr.verify(engine, trace, key, skip_prompt=True, **vars(setting))
    early = np.flatnonzero(prefix_p_values(engine, trace, key, setting).numpy()[PROMPT:] <= LEVELS[1])
    return {
        "p": verdict.p_value,
        "rank p": verdict.rank_p,
        "hit rate": verdict.hit_rate or 0.0,
        "chance": verdict.chance_rate or 0.0,
        "needed": int(early[0]) + 1 if len(early) else None,
    }


def row(arm: str, kind: str, parts: list[dict[str, list[Any]]]) -> dict[str, Any]:
    """The line of one model and type."""
    found = {name: np.array([one for part in parts for one in part[name]], float) for name in parts[0]}
    needed = np.nan_to_num(found["needed"], nan=math.inf)
    figures: dict[str, Any] = {"model": arm, "matrices": kind, "traces judged": len(found["p"])}
    for level in LEVELS:
        figures[f"p <= {level:g} (95%)"] = share(int((found["p"] <= level).sum()), len(found["p"])).text(2)
    keyed = STRENGTHS[arm] is not None
    return figures | {
        "median p, largest": f"{np.median(found['p']):.1e}, {found['p'].max():.1e}" if keyed else "",
        "control: smallest p, rank_p uniform": ""
        if keyed
        else f"{found['p'].min():.2f}, {uniform(found['rank p']):.2f}",
        "hit rate (chance)": f"{found['hit rate'].mean():.3f} ({found['chance'].mean():.3f})",
        "new tokens, median and largest": f"{np.median(needed):g}, {needed.max():g}" if keyed else "",
        "logits: median, largest": f"{np.median(found['median']):.2g}, {found['largest'].max():.2g}",
    }


def uniform(values: np.ndarray) -> float:
    """The p-value of a Kolmogorov-Smirnov test that ``values`` are uniform."""
    return float(scipy.stats.kstest(values, "uniform").pvalue)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    missing = [name for name in ("llama_cpp", "gguf") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"needs {' and '.join(missing)}: pip install llama-cpp-python gguf")
    torch.set_num_threads(1)
    tasks = {
        f"{arm}/{kind} {number}": partial(texts, arm, kind, number)
        for arm in STRENGTHS
        for kind in TYPES
        for number in range(KEYS)
    }
    import llama_cpp

    done = worked(arguments.json, {"llama-cpp-python": llama_cpp.__version__, "texts": KEYS * TEXTS}, tasks)
    if done is None:
        return
    rows = [
        row(arm, kind, [done.results[f"{arm}/{kind} {number}"] for number in range(KEYS)])
        for arm in STRENGTHS
        for kind in TYPES
    ]
    print(rows_table(rows))
    if arguments.json:
        figures = {"machine": done.machine | {"llama-cpp-python": llama_cpp.__version__}, "rows": rows}
        write_atomically(arguments.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
