"""How far the false-positive rate of one deployed key strays: many keys, each on the same native traces.

    python studies/deployed_keys.py --json docs/data/deployed-keys.json

A p-value is exact over random keys; a provider lives with one key. Here each of 200 keys is judged on 2,000 traces of
the native model: human prose, texts sampled at temperature 1, 0.5 and greedily, forms and repetition, and code. The
traces are made in float32 and judged in float32, or made in bfloat16 in batches of 8 and judged in float32 one by one,
where rounding swaps experts. They are judged under the setting quiet, since louder ones change only which swaps are
within reach. For comparison ``rank_p``, the rank among decoys that decided in older versions, is judged for fewer keys
and traces. Intervals are Clopper-Pearson's (99%, corrected for the number of keys). Seeds are fixed.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import worked
from false_positives import code, templated

import okr
from okr.detection import Swaps, gather_evidence, p_values, verify_keys
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.routing import NAMED

MODEL = "tiny-deepseek-moe"
DTYPES = {"float32": torch.float32, "bfloat16, batches of 8": torch.bfloat16}
TOKENS, BATCH, BLOCK = 64, 8, 80
LEVELS = (0.05, 0.01)


def key(number: int) -> okr.Key:
    """Deployed key ``number``; no secret."""
    return okr.Key.public(f"deployed {number}")


def prose(loaded: Loaded, number: int) -> list[int]:
    """A stretch of a shipped passage that starts at another word each time."""
    words = passages(200)[number % 200].text.split()
    return loaded.tokenizer(" ".join(words[3 * (number // 200) :]))["input_ids"]


CLASSES: dict[str, Callable[[Loaded, int], list[int]] | dict[str, Any]] = {
    "human prose": prose,
    "sampled, temperature 1": {"do_sample": True, "temperature": 1.0},
    "sampled, temperature 0.5": {"do_sample": True, "temperature": 0.5},
    "greedy": {"do_sample": False},
    "templated and repetitive": templated,
    "code": code,
}


@torch.no_grad()
def native(loaded: Loaded, name: str, numbers: range) -> list[okr.Trace]:
    """Traces of the native model, made in batches of equal length."""
    source, traces = CLASSES[name], []
    for first in range(numbers.start, numbers.stop, BATCH):
        batch = range(first, min(first + BATCH, numbers.stop))
        if callable(source):
            rows, options = [(source(loaded, n) * TOKENS)[:TOKENS] for n in batch], {"max_new_tokens": 1}
        else:
            rows = [prose(loaded, n)[:8] for n in batch]
            options = {"max_new_tokens": TOKENS - 8, "min_new_tokens": TOKENS - 8, "top_k": 0} | source
        ids = torch.tensor(rows)
        torch.manual_seed(first)
        with okr.record(loaded.model) as recorder:
            made = recorder.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), **{"do_sample": False} | options
            )
        traces += made.traces
    return traces


@cache
def model(dtype: str) -> Loaded:
    """The model in a dtype."""
    return okr.load(MODEL, dtype=DTYPES[dtype])


def judged(name: str, dtype: str, setting: str, numbers: range, keys: int) -> dict[str, Any]:
    """How many of these traces each key is found in, by level; and how many have no swap, or enough for the ranks."""
    hits, still, open_ = np.zeros((len(LEVELS), keys), int), 0, 0
    engine, claimed = okr.prepare(model("float32").model), [key(number) for number in range(keys)]
    for trace in native(model(dtype), name, numbers):
        swaps = Swaps([gather_evidence(engine, trace, NAMED[setting], skip_prompt=False)])
        p = p_values(engine, trace, claimed, NAMED[setting], decoys=199)
        hits += np.stack([p <= level for level in LEVELS])
        still, open_ = still + (swaps.swaps == 0), open_ + swaps.ranks_count
    return {"hits": hits.tolist(), "traces": len(numbers), "without swaps": still, "ranks count": open_}


def ranked(name: str, setting: str, numbers: range, keys: int) -> dict[str, Any]:
    """The same by ``rank_p`` alone, made and judged in float32."""
    hits, chosen = np.zeros((len(LEVELS), keys), int), NAMED[setting]
    engine = okr.prepare(model("float32").model)
    given = {"epsilon": chosen.epsilon, "zone": chosen.zone, "strength": chosen.strength, "decoys": 199}
    for trace in native(model("float32"), name, numbers):
        p = np.array([verdict.rank_p for verdict in verify_keys(engine, trace, [key(n) for n in range(keys)], **given)])
        hits += np.stack([p <= level for level in LEVELS])
    return {"hits": hits.tolist(), "traces": len(numbers)}


def spread(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The rates of single keys over all traces: mean, worst, and how many keys lie above the level beyond chance."""
    hits, traces = np.sum([part["hits"] for part in found], axis=0), sum(part["traces"] for part in found)
    row: dict[str, Any] = {"keys": hits.shape[1], "traces": traces}
    for level, counts in zip(LEVELS, hits, strict=True):
        above = sum(share(int(count), traces, 1 - 0.01 / len(counts))[1] > level for count in counts)
        row |= {f"mean at {level:g}": round(float(counts.mean()) / traces, 5)}
        row |= {f"worst at {level:g}": round(int(counts.max()) / traces, 5), f"keys above {level:g}": above}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--traces", type=int, default=336, help="of each class")
    parser.add_argument("--ranked", type=int, nargs=2, default=(40, 48), help="keys and traces a class for rank_p")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {}
    for name in CLASSES:
        for setting in NAMED:
            for dtype in DTYPES if setting == "quiet" else ():
                for first in range(0, arguments.traces, BLOCK):
                    part = range(first, min(first + BLOCK, arguments.traces))
                    title = f"{setting}/{dtype}/{name} {first}"
                    tasks[title] = partial(judged, name, dtype, setting, part, arguments.keys)
            keys, traces = arguments.ranked
            tasks[f"{setting}/rank_p/{name}"] = partial(ranked, name, setting, range(traces), keys)
    plan = {"keys": arguments.keys, "traces": arguments.traces, "ranked": list(arguments.ranked), "tokens": TOKENS}
    done = worked(arguments.json, plan, tasks)
    if done is None:
        return
    rows = []
    for setting in NAMED:
        for made in (*(DTYPES if setting == "quiet" else ()), "rank_p"):
            found = [part for title, part in done.results.items() if title.startswith(f"{setting}/{made}/")]
            head = {"setting": setting, "p-value": "rank_p" if made == "rank_p" else "p_value"}
            rows.append(head | {"made in": "float32" if made == "rank_p" else made} | spread(found))
            for what in ("without swaps", "ranks count"):
                rows[-1] |= {what: sum(part[what] for part in found)} if made != "rank_p" else {}
    write_atomically(arguments.json, json.dumps({"machine": done.machine, "plan": plan, "rows": rows}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
