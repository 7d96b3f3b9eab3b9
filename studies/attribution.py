"""Which of 100,000 keys: how often the right one is named, and how often one is named that had no part.

    python studies/attribution.py --out docs/data/attribution.json

Traces of 24 new tokens from tiny-deepseek-moe under the quiet setting, each made under one of the 100,000 keys, under a
key that is not among them, or natively; okr.attribute at alpha = 0.01. Intervals are Clopper-Pearson, 95%.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from common import Worked, worked

import okr
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import passages
from okr.routing import NAMED

MODEL = "tiny-deepseek-moe"
SETTING = asdict(NAMED["quiet"])
KEYS, TOKENS, ALPHA = 100_000, 24, 0.01
ORIGINS = ("one of the keys", "another key", "no key")


def key(name: object) -> okr.Key:
    """A key to measure with, no secret: anyone can derive it."""
    return okr.Key.public(f"attribution {name}")


def trace(loaded: okr.Loaded, number: int, made_under: okr.Key | None) -> okr.Trace:
    """One sample from the first words of a passage."""
    ids = torch.tensor([loaded.tokenizer(passages(200)[number].text)["input_ids"][:12]])
    torch.manual_seed(number)
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **sampling}
    if made_under is None:
        with okr.record(loaded.model) as recorder:
            return recorder.generate(**arguments).traces[0]
    with okr.watermark(loaded.model, made_under, **SETTING) as watermark:
        return watermark.generate(**arguments).traces[0]


def attributed(loaded: okr.Loaded, keys: list[okr.Key], origin: str, number: int) -> dict[str, float]:
    """Whether one trace had its key named, or, made under none of the keys, any key; and the seconds it took."""
    owner = keys[(137 * number) % KEYS]
    made_under = dict(zip(ORIGINS, (owner, key(f"stranger {number}"), None), strict=True))[origin]
    made = trace(loaded, number, made_under)
    start = time.perf_counter()
    answer = okr.attribute(loaded.model, made, keys, alpha=ALPHA, **SETTING)
    seconds = round(time.perf_counter() - start, 2)
    return {
        "named": answer.key_id == owner.id if made_under is owner else answer.key_id is not None,
        "seconds": seconds,
    }


def found(done: Worked, origin: str) -> dict[str, float]:
    """How many traces had a key named, of how many, and the 95% interval of that rate."""
    named = [result["named"] for name, result in done.results.items() if name.startswith(f"{origin}/")]
    _, low, high = share(sum(named), len(named))
    return {"traces": len(named), "named": sum(named), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--traces", type=int, default=20, help="traces made under one of the keys")
    parser.add_argument("--strangers", type=int, default=20, help="traces under other keys, and as many under none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded, keys = okr.load(MODEL), [key(number) for number in range(KEYS)]
    wanted = dict(zip(ORIGINS, (arguments.traces, arguments.strangers, arguments.strangers), strict=True))
    tasks = {
        f"{origin}/{number}": partial(attributed, loaded, keys, origin, number)
        for origin, traces in wanted.items()
        for number in range(traces)
    }
    head = {"keys": KEYS, "tokens": TOKENS, "alpha": ALPHA}
    done = worked(arguments.out, {"model": MODEL} | head, tasks)
    if done is not None:
        figures = head | {"date": done.machine["date"]}
        figures["median seconds"] = statistics.median(result["seconds"] for result in done.results.values())
        figures |= {origin: found(done, origin) for origin, traces in wanted.items() if traces}
        write_atomically(arguments.out, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
