"""What `okr inspect` says of keys that a checkpoint does not carry, and of the one that it carries.

    python studies/baked_inspection.py --json docs/data/baked-inspection.json

tiny-deepseek-moe, baked at `quiet`, and the original: both are inspected under the same random keys, and then under
the true key. p: the bound of okr inspect, whose rate may lie below its level. rank: the exact rank among 999 images,
with the p-value of a Kolmogorov-Smirnov test against the uniform law (of a rank that takes 1,000 values). 99% intervals
are Clopper-Pearson's. Prints a Markdown table.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from baked import Models
from scipy.stats import kstest

import okr
from okr.baking import bake, inspect
from okr.baking.models import checkpoint_folder
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.pages.machine import machine
from okr.pages.markdown import rows_table
from okr.routing.named import NAMED

KEY, LEVELS = okr.Key.public("baked inspection"), (0.05, 0.01, 0.001)


def row(name: str, folder: Path, gates: Any, keys: int) -> dict[str, Any]:
    """A line of the table."""
    found = [inspect(folder, okr.Key.public(f"random {number}"), gates) for number in range(keys)]
    p, rank = (np.array([getattr(each, what) for each in found]) for what in ("p_value", "rank_p"))
    line: dict[str, Any] = {"checkpoint": name, "random keys": keys}
    for level in LEVELS:
        for what, values in (("p", p), ("rank", rank)):
            value, low, high = share(int((values <= level).sum()), keys, 0.99)
            line[f"{what} <= {level}"] = f"{value:.4f} ({low:.4f} to {high:.4f})"
    spread = rank - np.random.default_rng(0).random(keys) / 1000
    line["rank against uniform, KS p"] = round(float(kstest(spread, "uniform").pvalue), 3)
    true = inspect(folder, KEY, gates)
    line["the true key: p, z"] = f"{true.p_value:.2g}, {true.z:.1f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    original, gates = checkpoint_folder("tiny"), Models("tiny-deepseek-moe").gates
    with tempfile.TemporaryDirectory() as scratch:
        bake(original, Path(scratch) / "baked", KEY, gates, NAMED["quiet"].strength)
        folders = {"original": original, "baked": Path(scratch) / "baked"}
        rows = [row(name, folder, gates.gates, arguments.keys) for name, folder in folders.items()]
    print(rows_table(rows))
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
