"""``python -m tests.unit.discovery.families_document`` writes docs/families.md: every router of every family."""

from pathlib import Path

import transformers
from torch import nn

from okr.discovery import RouterSite, discover
from okr.discovery.exceptions import EXCEPTIONS
from okr.discovery.sites import pattern
from okr.engines.transformers.fused import fused_for
from tests.unit.discovery.zoo import FAMILIES, build

DOCUMENT = Path(__file__).parents[3] / "docs" / "families.md"
HEAD = """# Families

Written by `python -m tests.unit.discovery.families_document`; a test compares it with what discovery finds.

Every Mixture-of-Experts family of transformers {version}: {families} families, {sites} router patterns, {keyed} of them
keyed. A pattern is one router of one kind of layer; `{{i}}` is a layer's number. `unit` is what epsilon is measured in:
differences of logits (families that rank logits or softmax probabilities), or of the family's own scores (sigmoid and
others, with their correction bias). `fused` and `general` are the two ways of keying, alike to the last bit
([performance.md](performance.md)); how routers are found and refused: [discovery.md](discovery.md). DeepSeek-MoE
(model type `deepseek`) has DeepSeek-V2's router.

| family | router | class | unit | keyed |
| --- | --- | --- | --- | --- |
"""


def document() -> str:
    """The text of docs/families.md, from tiny models of every family."""
    rows: dict[tuple[str, str, str], tuple[RouterSite, str]] = {}
    for name in FAMILIES:
        model = build(name)
        for site in discover(model):
            rows.setdefault((name, pattern(site.path), site.router_class), (site, _how(site, model)))
    lines = [
        f"| {name} | `{path}` | `{router_class}` | {site.unit if site.keyable else ''} | {how} |"
        for (name, path, router_class), (site, how) in sorted(rows.items(), key=lambda row: row[0])
    ]
    counts = {
        "version": transformers.__version__,
        "families": len({name.partition(":")[0] for name in FAMILIES}),
        "sites": len(rows),
        "keyed": sum(site.keyable for site, _ in rows.values()),
    }
    return HEAD.format(**counts) + "\n".join(lines) + "\n"


def _how(site: RouterSite, model: nn.Module) -> str:
    if not site.keyable:
        return f"no: {site.reason}"
    how = "fused" if fused_for(model.get_submodule(site.path)) else "general"
    exception = EXCEPTIONS.get(site.router_class)
    return f"{how}; {exception.reason}" if exception else how


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
