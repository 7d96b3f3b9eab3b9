"""Which of 1,000 keys: how often the right one is named, and how often one is named that had no part.

    python bench/attribution.py --out docs/data/attribution.json

Traces of 24 new tokens from tiny-deepseek-moe (soft keying of strength 1), each made under one of the 1,000 keys,
under a key that is not among them, or natively; okr.attribute at alpha = 0.01. Intervals are Clopper-Pearson, 95%.
"""

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import torch
from scipy.stats import binomtest

import okr
from okr.loaders import passages

SETTING = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
KEYS, TOKENS, ALPHA = 1_000, 24, 0.01


def key(name: object) -> okr.Key:
    """A key to measure with, no secret: anyone can derive it."""
    return okr.Key(hashlib.sha256(f"attribution {name}".encode()).digest())


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--traces", type=int, default=10, help="traces of each origin")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = okr.load("tiny-deepseek-moe")
    keys = [key(number) for number in range(KEYS)]
    origins = {"one of the keys": 0, "another key": 0, "no key": 0}
    began = time.monotonic()
    for number in range(arguments.traces):
        owner = keys[(137 * number) % KEYS]
        for origin, made_under in zip(origins, (owner, key(f"stranger {number}"), None), strict=True):
            made = trace(loaded, number, made_under)
            found = okr.attribute(loaded.model, made, keys, alpha=ALPHA, **SETTING)
            right = found.key_id == owner.id if origin == "one of the keys" else found.key_id is not None
            origins[origin] += right
        print(f"{number + 1} of {arguments.traces}: {origins}, {time.monotonic() - began:.0f} s", flush=True)
    result = {
        "keys": KEYS,
        "tokens": TOKENS,
        "alpha": ALPHA,
        "traces": arguments.traces,
        "date": time.strftime("%Y-%m-%d"),
    }
    for origin, count in origins.items():
        low, high = binomtest(count, arguments.traces).proportion_ci(0.95, "exact")
        result[origin] = {"named": count, "low": round(low, 4), "high": round(high, 4)}
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
