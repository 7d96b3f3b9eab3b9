"""Make docs/baked.md and docs/baked-*.md from what the studies of baked checkpoints wrote.

python studies/baked_page.py
"""

import json
from pathlib import Path
from typing import Any

from okr.pages.markdown import rows_table

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "data"
COST = """# What a baked key costs, proves and survives

At `quiet` (strength 0.1) ten tokens of a baked model's trace prove the key, in four engines that know nothing of it.
The weights prove it without any text, and keep it through quantisation, training and pruning ([what
survives](baked-survival.md), [in which families](baked-families.md)). A router that runs one expert needs a strength at
which the cost is plain.

Written by `python studies/baked_page.py` from the figures of the commands below; do not edit. What baking is:
[Bake a key into a checkpoint](how-to/bake.md). All traces are judged with the original float32 model, alone, without
their prompts.

## Cost and proof

`python studies/baked.py --json docs/data/baked.json`, {baked_on}.
Cost in nats per token on 100 held-out passages, the mean of three keys with a 95% interval over passages; live keying
at the same strength beside it. Traces of 200 texts that the baked model sampled, 48 new tokens each.

{baked}

A baked model pays its experts by the shifted scores, so it costs more than live keying, which leaves payments alone.
The difference grows about with the square of the strength, so a small strength is the remedy. A router that keeps one
expert (tiny-switch) decides less often by a hair, and needs a strength at which the cost is plain.

## Engines

`python studies/baked_engines.py --json docs/data/baked-engines.json`, {engines_on}.
20 texts of 48 new tokens, each with the
baked checkpoint and with the original.

{engines}

`python studies/baked_llama_cpp.py --json docs/data/baked-llama-cpp.json`, {llama_on}.
Four texts share a key; those of the original
are judged under ten other keys each.

{llama}

Quantisation moves the routers' inputs, so experts run that neither the key nor the original model prefers. That lowers
the hit rate, and a proof takes more tokens.
"""
SURVIVAL = """# What a baked key survives

The weights keep the key through everything that leaves the gates alone, and through training far into overfitting,
of the gates too. Merging with the original takes it out in proportion. Without the original, permuted experts hide it
from this small model's gates at this strength; with it they do not, and no change here brings p above 1e-300. Traces
fade as the changed model drifts from the one that judges, under a baked key and under a live one alike.

Written by `python studies/baked_page.py` from the figures of the commands below; do not edit.
[What a baked key costs and proves](baked.md).

## What survives

`python studies/baked_survival.py --json docs/data/baked-survival.json`, {survival_on}.
tiny-deepseek-moe baked at `quiet`, then
changed; two keys. Weights: the p-value of `okr inspect`. Traces: the share of 48 texts found at p <= 0.001 by the
original model, with its 95% interval; live: the same where the changed original ran under the key.

{survival}

## Keys that are not there

`python studies/baked_inspection.py --json docs/data/baked-inspection.json`, {inspection_on}.
Shares of random keys with p or rank at
most a level, with 99% intervals.

{inspection}

The bound of `okr inspect` is about three times the tail that it bounds, and it is doubled for two ways of looking, so
random keys stay well below every level; the rank, which needs no bound, is uniform.
"""
FAMILIES = """# Which families can be baked

Written by `python studies/baked_page.py`; do not edit. [What a baked key costs and proves](baked.md).

`python studies/baked_families.py --json docs/data/baked-families.json`, {families_on}.
Small random models of every family, baked at 0.1.
Different: the share of tokens whose experts are not those of live keying at 0.1. Where the family ranks logits or their
softmax, what differs is the norm. Elsewhere the family's own rule works on shifted logits, live keying on its scores.

{families}
"""


PAGES = {"baked.md": COST, "baked-survival.md": SURVIVAL, "baked-families.md": FAMILIES}


def figures(name: str) -> dict[str, Any]:
    """The figures of a study."""
    return dict(json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")))


def on(found: dict[str, Any]) -> str:
    """When, and with which versions."""
    shown = [f"{name} {found['machine'][name]}" for name in found["machine"] if name not in ("processor", "date")]
    return ", ".join([found["machine"]["date"], *shown])


def folded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The families' rows, the refused ones last."""
    return sorted(rows, key=lambda row: (row["baked"] != "yes", row["family"]))


def pages() -> dict[str, str]:
    """The text of each page, by its file's name in docs/."""
    found = {
        name: figures(f"baked-{name}" if name != "baked" else name)
        for name in ("baked", "engines", "survival", "inspection", "families")
    }
    found["llama"] = figures("baked-llama-cpp")
    found["families"]["rows"] = folded(found["families"]["rows"])
    tables = {name: rows_table(each["rows"]) for name, each in found.items()}
    dates = {f"{name}_on": on(each) for name, each in found.items()}
    return {name: text.format(**tables, **dates) for name, text in PAGES.items()}


if __name__ == "__main__":
    for file, text in pages().items():
        (ROOT / "docs" / file).write_text(text, encoding="utf-8")
