"""Which families of transformers can be baked, and how far baked routing is from keyed routing at the same strength.

    python studies/baked_families.py --json docs/data/baked-families.json

Every family is the tests' small model with random weights. Its norms are measured on 8 of its inputs, it is baked at
strength 0.1, and it runs 24 others. Keyed routing is computed on the same router inputs, with the original gates and
the same strength. Prints a Markdown table: a token counts as swapped if its experts are not the native ones, and as
different if they are not those of keyed routing.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import worked

from okr import Key
from okr.discovery import discover
from okr.discovery.sites import pattern
from okr.errors import RouterNotFound, UnsupportedRouter
from okr.jobs.folders import write_atomically
from tests.unit.baking.zoo_baking import STRENGTH, Side, bake_family, sides, top
from tests.unit.discovery.zoo import FAMILIES, build

MEASURED, RUN = range(100, 108), range(24)
KEY = Key.from_passphrase("the key of baked families")
HEAD = ("family", "gate", "ranks", "baked", "swapped by baking", "swapped by keyed routing", "different")


def family(name: str) -> dict[str, Any]:
    """The figures of one family: a row for every kind of gate."""
    with TemporaryDirectory() as folder:
        try:
            original, baked, header = bake_family(name, Path(folder), KEY, seeds=MEASURED)
        except UnsupportedRouter as error:
            return {"rows": [refusal(name, str(error).partition("cannot be baked: ")[2])]}
        except RouterNotFound:
            return {"rows": [refusal(name, next(site.reason for site in discover(build(name)) if site.reason))]}
        kinds: dict[str, list[Side]] = {}
        for seed in RUN:
            for side in sides(original, baked, name, header, KEY, seed):
                kinds.setdefault(pattern(side.gate.tensor), []).append(side)
    return {"rows": [row(name, gate, found) for gate, found in kinds.items()]}


def refusal(name: str, reason: str) -> dict[str, Any]:
    """The row of a family that is refused."""
    return {"family": name, "gate": pattern(discover(build(name))[0].path), "ranks": "", "baked": f"no: {reason}"}


def row(name: str, gate: str, found: list[Side]) -> dict[str, Any]:
    """The row of one kind of gate."""
    native = [top(side.choice(side.original.logits), side.baked.experts.shape[1]) for side in found]
    ran, live = [side.baked.experts for side in found], [side.live for side in found]
    return {
        "family": name,
        "gate": gate,
        "ranks": found[0].ranks,
        "baked": "yes",
        "tokens": sum(map(len, ran)),
        "swapped by baking": share(ran, native),
        "swapped by keyed routing": share(live, native),
        "different": share(ran, live),
    }


def share(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The share of tokens with other experts."""
    apart = [(np.sort(one) != np.sort(other)).any(-1) for one, other in zip(ones, others, strict=True)]
    return round(float(np.concatenate(apart).mean()), 4)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for each in rows:
        shares = [f"{each[name]:.1%}" if name in each else "" for name in HEAD[4:]]
        cells = [each["family"], f"`{each['gate']}`", each["ranks"], each["baked"], *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {f"families/{name.replace(':', '-')}": partial(family, name) for name in FAMILIES}
    done = worked(arguments.json, {"strength": STRENGTH, "inputs": len(RUN), "measured": len(MEASURED)}, tasks)
    if done is None:
        return
    rows = [each for result in done.results.values() for each in result["rows"]]
    print(table(rows))
    if arguments.json:
        figures = {"machine": done.machine, "strength": STRENGTH, "rows": rows}
        write_atomically(arguments.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
