"""How many new tokens of a trace prove a key, by strength, on both embedded models, in float32 and bfloat16.

    python studies/short_traces.py --json docs/data/short-traces.json

Soft keying (boundary, epsilon infinite). Every text has a prompt of its own, eight texts share a key and a batch; each
trace is judged alone, without its prompt, in the dtype that it was made in and in the other. A text counts as proven
after n tokens if p <= 0.001 there. Intervals are Clopper-Pearson's (95%). Prints a Markdown table.
"""

import argparse
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import worked

import okr
from okr.detection import prefix_p_values
from okr.engines import Engine
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.pages.markdown import rows_table
from okr.routing import Setting

STRENGTHS = {"tiny-deepseek-moe": (0.05, 0.1, 0.15, 0.2, 0.3), "tiny-switch": (2.0, 4.0, 6.0, 8.0)}
TEMPERATURES = {"tiny-deepseek-moe": 1.0, "tiny-switch": 0.8}
DTYPES = ("float32", "bfloat16")
NEW_TOKENS, BATCH, LEVEL, WITHIN = 48, 8, 0.001, 16


def made(loaded: Loaded, setting: Setting, temperature: float, texts: int) -> list[tuple[okr.Key, okr.Trace]]:
    """One trace a text, and its key."""
    found = []
    for first in range(0, texts, BATCH):
        key = okr.Key.public(f"short traces {first}")
        count = min(BATCH, texts - first)
        found += [(key, trace) for trace in made_under(loaded, key, setting, first, count, temperature)]
    return found


def made_under(
    loaded: Loaded, key: okr.Key, setting: Setting, first: int, count: int = BATCH, temperature: float = 1.0
) -> Sequence[okr.Trace]:
    """Traces of one batch of texts under one key; their prompts are the passages from ``first`` on."""
    prompts = [passage.text for passage in passages(200)[first : first + count]]
    inputs = torch.tensor([loaded.tokenizer(prompt)["input_ids"][:24] for prompt in prompts])
    torch.manual_seed(first)
    with okr.watermark(
        loaded.model, key, epsilon=setting.epsilon, zone=setting.zone, strength=setting.strength
    ) as watermark:
        return watermark.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_k=0,
            temperature=temperature, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
        ).traces  # fmt: skip


def p_values(engine: Engine, setting: Setting, key: okr.Key, trace: okr.Trace) -> np.ndarray:
    """The p-value after every new token [NEW_TOKENS - 1]: the last one is sampled and not routed."""
    p = prefix_p_values(engine, trace, key, setting).numpy()
    return p[-(NEW_TOKENS - 1) :]


def needed(p: np.ndarray, level: float, power: float) -> int | str:
    """From how many tokens on at least a share ``power`` of the texts [texts, tokens] has p <= ``level``."""
    late = np.flatnonzero((p <= level).mean(0) < power)
    first = int(late[-1]) + 2 if len(late) else 1
    return first if first <= p.shape[1] else f"over {p.shape[1]}"


def rows(name: str, strength: float, generated: str, texts: int) -> list[dict[str, Any]]:
    """The figures of one model, strength and dtype of the generation: a row for each dtype of the replay."""
    loaded = {dtype: okr.load(name, dtype=dtype) for dtype in DTYPES}
    setting = Setting(math.inf, "boundary", strength)
    traces = made(loaded[generated], setting, TEMPERATURES[name], texts)
    found = []
    for replayed in DTYPES:
        p = np.stack([p_values(okr.prepare(loaded[replayed].model), setting, key, trace) for key, trace in traces])
        rates = [okr.verify(loaded[replayed].model, trace, key, decoys=1).hit_rate or 0.0 for key, trace in traces]
        value, low, high = share(int((p[:, WITHIN - 1] <= LEVEL).sum()), texts)
        found.append(
            {
                "model": name,
                "strength": strength,
                "made in": generated,
                "judged in": replayed,
                "texts": texts,
                "tokens for half": needed(p, LEVEL, 0.5),
                "tokens for 95%": needed(p, LEVEL, 0.95),
                f"proven after {WITHIN} (95%)": f"{value:.3f} ({low:.3f} to {high:.3f})",
                "p <= 1e-6 for 95%": needed(p, 1e-6, 0.95),
                "hit rate": round(float(np.mean(rates)), 4),
            }
        )
    return found


def shown(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that docs/detection.md shows: judged in the dtype in which the traces were made."""
    return [row for row in figures["rows"] if row["made in"] == row["judged in"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def figures_of(*which: Any) -> dict[str, Any]:
        return {"rows": rows(*which, arguments.texts)}

    tasks = {
        f"{name}/{strength:g} {dtype}": partial(figures_of, name, strength, dtype)
        for name, strengths in STRENGTHS.items()
        for strength in strengths
        for dtype in DTYPES
    }
    done = worked(arguments.json, {"texts": arguments.texts, "new tokens": NEW_TOKENS}, tasks)
    if done is None:
        return
    figures = {"machine": done.machine, "rows": [row for result in done.results.values() for row in result["rows"]]}
    print(rows_table(figures["rows"]))
    if arguments.json:
        write_atomically(arguments.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
