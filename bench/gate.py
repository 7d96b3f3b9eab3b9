"""One command that says whether keyed routing became dearer: ratios against committed limits, no absolute times.

    python bench/gate.py                        # the embedded model, a few minutes on two cores
    python bench/gate.py --json figures.json
    python bench/gate.py --rounds 25            # quieter medians

Measures decoding and prefill keyed against unkeyed (CPU time, paired and interleaved: ``bench/routers.py``), verifying
against generating and detecting against separate passes (``bench/detection.py``), and what a watermark and a trace add
to memory (``bench/memory.py``). A median beyond its limit in ``bench/limits.json`` by more than the
tolerance there is a regression: exit code 1. ``aim`` is what the project wants; being beyond it is shown, not punished.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detection
import memory
import routers
import torch

import okr
from okr.pages.machine import machine

LIMITS = Path(__file__).with_name("limits.json")
MODEL = "tiny-deepseek-moe"


def measured(rounds: int) -> Iterator[tuple[str, float, float, float]]:
    """Every ratio by name: lower quartile, median, upper quartile."""
    loaded = okr.load(MODEL)
    text = " ".join(passage.text for passage in okr.loaders.passages(3))
    tokens = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, :512]
    with torch.no_grad():
        for entry in routers.models(MODEL, loaded.model, tokens, 64, rounds):
            low, median, high = entry["ratio"]["keyed"]
            yield f"{entry['work'].partition(',')[0]}, {entry['setting']}", low, median, high
        for entry in routers.router_calls(rounds, {"16B": routers.SHAPES["16B"]}, {1: 400, 512: 8}):
            low, median, high = entry["ratio"]["fused"]
            yield f"router, {entry['tokens']} tokens, {entry['setting']}", low, median, high
    pairs = max(3, rounds // 3)
    for name, found in {
        "verify / generate": detection.verification(loaded.model, 80, pairs),
        "detect / separate passes": detection.detection(loaded.model, 80, pairs, 16),
    }.items():
        yield name, found["low"], found["ratio"], found["high"]
    share = memory.added(loaded.model, tokens)["share"]
    yield "memory added / model", share, share, share
    size = memory.bytes_per_choice(loaded.model, tokens[:, :16])
    yield "trace bytes per expert choice", size, size, size


def judged(figures: list[tuple[str, float, float, float]], rules: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure beside its limit and aim; ``passed`` while its median is within the limit and the tolerance."""
    unknown = {name for name, *_ in figures} ^ set(rules["limits"])
    if unknown:
        raise SystemExit(f"bench/limits.json and bench/gate.py do not name the same figures: {sorted(unknown)}")
    rows = []
    for name, low, median, high in figures:
        rule = rules["limits"][name]
        passed = median <= rule["limit"] * (1 + rules["tolerance"])
        rows.append({"name": name, "median": median, "low": low, "high": high, **rule, "passed": passed})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = judged(list(measured(arguments.rounds)), json.loads(LIMITS.read_text()))
    print("| ratio | median (middle half) | limit | aim | |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        spread = f"{row['median']:.3f} ({row['low']:.3f}-{row['high']:.3f})"
        verdict = ("within" if row["median"] <= row["aim"] else "beyond the aim") if row["passed"] else "REGRESSION"
        print(f"| {row['name']} | {spread} | {row['limit']} | {row['aim']} | {verdict} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "ratios": rows}, indent=1) + "\n")
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


if __name__ == "__main__":
    main()
