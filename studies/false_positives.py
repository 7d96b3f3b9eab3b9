"""Are the p-values true? Null tests of traces and of texts, counted against their nominal levels.

    python studies/false_positives.py trace --out docs/data/calibration-trace.json
    python studies/false_positives.py text  --out docs/data/calibration-text.json

Null hypothesis in every test: the evidence was made without knowledge of the claimed key. Every test has a fresh key,
so that, given the evidence, the p-values of a text class are independent and a Clopper-Pearson interval is right.
Traces are made in bfloat16 and judged in float32, where rounding swaps experts even in native routing; made in float32
hardly any would have a swap, and p would be 1. Those under other keys are made in float32. Traces are tested as
okr.verify does, with 99 decoys; texts by okr.detect with 99 decoys. ``studies/false_positives_page.py`` makes the
page. Seeds are fixed; on one machine a run repeats exactly.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from common import Figures, worked
from scipy.stats import norm

import okr
from okr.detection import Decoys, SiteEvidence, gather_evidence, p_values
from okr.detection.counting import count
from okr.engines.choice import Projector
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.routing import NAMED, Setting

MODEL = "tiny-deepseek-moe"
SETTINGS = {
    "quiet": NAMED["quiet"],
    "max, epsilon 2": Setting(2.0, "max", math.inf),
}
TOKENS = 32  # of every text, 8 of very short ones
DECOYS = 99


def key(*parts: object) -> okr.Key:
    """A key that nothing was made under; no secret: anyone can derive it."""
    return okr.Key.public(" ".join(map(str, ("calibration", *parts))))


def prose(loaded: Loaded, number: int) -> list[int]:
    """Human prose: the shipped passages."""
    return loaded.tokenizer(passages(200)[number % 200].text)["input_ids"]


def generated(loaded: Loaded, number: int, made_under: okr.Key | None) -> list[int]:
    """The model's own text from eight words of a passage; under a key or none."""
    torch.manual_seed(number)
    words = " ".join(passages(200)[number % 200].text.split()[:8])
    ids = torch.tensor([loaded.tokenizer(words)["input_ids"]])
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **options}
    if made_under is None:
        sequence = loaded.model.generate(**arguments)
    else:
        with okr.watermark(loaded.model, made_under, epsilon=math.inf, zone="boundary", strength=1.0):
            sequence = loaded.model.generate(**arguments)
    return [1, *sequence[0, ids.shape[1] :].tolist()]


def templated(loaded: Loaded, number: int) -> list[int]:
    """Forms with one field changed, and one phrase over and over."""
    if number % 2:
        return loaded.tokenizer("the house of the lord, " * 40)["input_ids"][number % 7 :]
    text = "".join(f"Item {i}: the price is {number + i} dollars.\n" for i in range(20))
    return loaded.tokenizer(text)["input_ids"]


def code(loaded: Loaded, number: int) -> list[int]:
    """Python source: this package's own files."""
    files = sorted(Path(okr.__file__).parent.rglob("*.py"))
    lines = files[number % len(files)].read_text(encoding="utf-8").splitlines()
    return loaded.tokenizer("\n".join(lines[number % max(1, len(lines) - 12) :]))["input_ids"]


CLASSES: dict[str, Callable[[Loaded, int], list[int]]] = {
    "human prose": prose,
    "unwatermarked output": lambda loaded, n: generated(loaded, n, None),
    "output under other keys": lambda loaded, n: generated(loaded, n, key("other", n)),
    "templated and repetitive": templated,
    "code": code,
    "very short": lambda loaded, n: prose(loaded, n)[:8],
}


@cache
def lowered() -> Loaded:
    """The model in bfloat16."""
    return okr.load(MODEL, dtype=torch.bfloat16)


def recorded(loaded: Loaded, tokens: list[int], setting: Setting, made_under: okr.Key | None) -> okr.Trace:
    """The routing of a text, recorded natively in bfloat16 or under a key."""
    ids = torch.tensor([tokens])
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 1, "do_sample": False}
    if made_under is None:
        with okr.record(lowered().model) as recorder:
            return recorder.generate(**arguments).traces[0]
    with okr.watermark(
        loaded.model, made_under, epsilon=setting.epsilon, zone=setting.zone, strength=setting.strength
    ) as watermark:
        return watermark.generate(**arguments).traces[0]


def naive_p(sites: list[SiteEvidence], claimed: okr.Key) -> float:
    """What a binomial test over free slots would say, hits taken as independent with chance f / |P|."""
    matched = expected = variance = 0.0
    for site in sites:
        nothing = Decoys.draw(0, site.site.num_experts, b"unused--")
        matched += float(count(nothing, site, Projector(site.site, claimed)(site.hidden))[0].sum())
        chance = site.free / site.pool.sum(-1)
        expected += float((site.free * chance).sum())
        variance += float((site.free * chance * (1 - chance)).sum())
    return float(norm.sf((matched - expected) / math.sqrt(variance))) if variance else 1.0


@torch.no_grad()
def trace_tests(loaded: Loaded, name: str, number: int, keys: range) -> dict[str, list[float]]:
    """p-values of ``keys`` tests of one text of a class, and those of a naive test where keys choose freely."""
    setting = list(SETTINGS.values())[number % 2]
    made_under = key("other", number) if name == "output under other keys" else None
    trace = recorded(loaded, CLASSES[name](loaded, number)[:TOKENS], setting, made_under)
    engine, claimed = okr.prepare(loaded.model), [key(name, number, test) for test in keys]
    sites = gather_evidence(engine, trace, setting, skip_prompt=False)
    sites = [site for site in sites if len(site.choice)]
    naive = [naive_p(sites, one) for one in claimed[:60]] if setting.strength == math.inf else []
    return {"p": p_values(engine, trace, claimed, setting, decoys=DECOYS).tolist(), "naive": naive}


@torch.no_grad()
def text_test(loaded: Loaded, name: str, number: int) -> dict[str, list[float]]:
    """The p-value of okr.detect for one text of a class and a fresh key."""
    setting = list(SETTINGS.values())[number % 2]
    verdict = okr.detect(
        loaded.model,
        CLASSES[name](loaded, number)[:TOKENS],
        key("text", name, number),
        epsilon=setting.epsilon,
        zone=setting.zone,
        strength=setting.strength,
        decoys=DECOYS,
        alpha=0.01,
        rows=25,
    )
    return {"p": [verdict.p_value], "naive": []}


def rounded_up(value: float) -> float:
    """The least number of three significant digits that is not below ``value``, nor below 1e-12."""
    value = max(value, 1e-12)
    digits = 2 - math.floor(math.log10(value))
    return round(math.ceil(round(value * 10.0**digits, 9)) / 10.0**digits, digits)


def together(found: Iterable[Figures]) -> dict[str, list[list[float]]]:
    """The p-values of a class and how often each occurs, rounded up to three digits, so that the file stays small."""
    parts = {"p": [], "naive": []}
    for text in found:
        for part, values in parts.items():
            values += text[part]
    rounded = {
        part: np.unique([rounded_up(value) for value in values], return_counts=True) for part, values in parts.items()
    }
    return {part: [values.tolist(), counts.tolist()] for part, (values, counts) in rounded.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["trace", "text"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=int, help="texts in each class (42 for trace, 340 for text)")
    parser.add_argument("--keys", type=int, default=2400, help="fresh keys for each text's trace")
    parser.add_argument("--first-key", type=int, default=0, help="number of the first key: other keys, other tests")
    parser.add_argument("--only", choices=CLASSES, action="append", help="this class alone (repeat it); none: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = arguments.texts or (42 if arguments.kind == "trace" else 340)
    keys = range(arguments.first_key, arguments.first_key + arguments.keys)
    names = [name for name in CLASSES if name in (arguments.only or CLASSES)]
    loaded = okr.load(MODEL)
    test = partial(trace_tests, keys=keys) if arguments.kind == "trace" else text_test
    tasks = {f"{name}/{number}": partial(test, loaded, name, number) for name in names for number in range(texts)}
    head = {"kind": arguments.kind, "model": MODEL, "tokens": TOKENS, "decoys": DECOYS}
    done = worked(arguments.out, head | {"keys": len(keys), "first key": arguments.first_key}, tasks)
    if done is None:
        return
    figures = head | {
        "texts": texts,
        "keys": len(keys),
        "date": done.machine["date"],
        "versions": {"okr": okr.__version__, "torch": done.machine["torch"]},
        "classes": {name: together(done.results[f"{name}/{number}"] for number in range(texts)) for name in names},
    }
    write_atomically(arguments.out, json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
