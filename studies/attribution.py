"""Which of 1,000 keys: how often the right one is named, and how often one is named that had no part.

    python studies/attribution.py --out docs/data/attribution.json

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


def found(named: int, traces: int) -> dict[str, float]:
    """How many traces had a key named, of how many, and the 95% interval of that rate."""
    low, high = binomtest(named, traces).proportion_ci(0.95, "exact")
    return {"traces": traces, "named": named, "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="what it holds is not done again")
    parser.add_argument("--traces", type=int, default=20, help="traces made under one of the keys")
    parser.add_argument("--strangers", type=int, default=20, help="traces under other keys, and as many under none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = okr.load("tiny-deepseek-moe")
    keys = [key(number) for number in range(KEYS)]
    wanted = {"one of the keys": arguments.traces, "another key": arguments.strangers, "no key": arguments.strangers}
    result = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    result |= {"keys": KEYS, "tokens": TOKENS, "alpha": ALPHA, "date": time.strftime("%Y-%m-%d")}
    for origin, traces in wanted.items():
        so_far = result.get(origin, {"traces": 0, "named": 0})
        named = int(so_far["named"])
        for number in range(so_far["traces"], traces):
            owner = keys[(137 * number) % KEYS]
            made_under = {"one of the keys": owner, "another key": key(f"stranger {number}"), "no key": None}[origin]
            answer = okr.attribute(loaded.model, trace(loaded, number, made_under), keys, alpha=ALPHA, **SETTING)
            named += answer.key_id == owner.id if made_under is owner else answer.key_id is not None
            result[origin] = found(named, number + 1)
            arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(f"{origin}: {result[origin]}", flush=True)


if __name__ == "__main__":
    main()
