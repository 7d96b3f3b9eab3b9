"""Which of 1,000 keys: how often the right one is named, and how often one is named that had no part.

    python studies/attribution.py --out docs/data/attribution.json

Traces of 24 new tokens from tiny-deepseek-moe (soft keying of strength 1), each made under one of the 1,000 keys,
under a key that is not among them, or natively; okr.attribute at alpha = 0.01. Intervals are Clopper-Pearson, 95%.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import torch
from common import Worked, worked

import okr
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import passages

MODEL = "tiny-deepseek-moe"
SETTING = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
KEYS, TOKENS, ALPHA = 1_000, 24, 0.01
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


def attributed(loaded: okr.Loaded, keys: list[okr.Key], origin: str, number: int) -> dict[str, bool]:
    """Whether one trace had its key named; of a trace under none of the keys, whether any was."""
    owner = keys[(137 * number) % KEYS]
    made_under = dict(zip(ORIGINS, (owner, key(f"stranger {number}"), None), strict=True))[origin]
    answer = okr.attribute(loaded.model, trace(loaded, number, made_under), keys, alpha=ALPHA, **SETTING)
    return {"named": answer.key_id == owner.id if made_under is owner else answer.key_id is not None}


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
        figures |= {origin: found(done, origin) for origin, traces in wanted.items() if traces}
        write_atomically(arguments.out, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
