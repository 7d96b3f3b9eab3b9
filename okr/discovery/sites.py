"""Defines the record of a router site, which all other rooms work with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Unit = Literal["logit", "score"]
Ranks = Literal["logits", "probabilities", "scores", ""]
Calls = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RouterSite:
    """A module of a model that ranks experts for every token.

    Attributes:
        path: the path of the module whose forward ranks: a router, or a whole block if the block itself ranks.
        stack: ``decoder`` or ``encoder``, with a suffix for a second router in one layer.
        layer: the index of the transformer layer.
        router_class: the name of the module's class.
        num_experts: how many experts it ranks (E), skip and zero experts included.
        top_k: how many experts it keeps (k).
        hidden_size: the size of its input (d).
        unit: the unit of its choice scores, and so of epsilon.
        ranks: what the forward ranks.
        calls: the functions by which one forward ranks, in order. Each has the place among the kept experts that it
            decides, which is 0 unless experts are picked one by one.
        flat: whether the ranked scores are [tokens, experts] although the input is [batch, tokens, hidden].
        keyable: whether a key can decide here.
        reason: why not, if it is not keyable.
    """

    path: str
    stack: str
    layer: int
    router_class: str
    num_experts: int
    top_k: int
    hidden_size: int
    unit: Unit
    ranks: Ranks
    calls: Calls
    flat: bool
    keyable: bool
    reason: str = ""


def table(sites: Sequence[RouterSite]) -> str:
    """A readable table of ``sites``. Layers with equal routers share one line."""
    rows: list[tuple[str, ...]] = [
        ("path", "stack", "layers", "class", "experts", "top-k", "hidden", "unit", "keyable")
    ]
    folded: dict[tuple[str, ...], list[RouterSite]] = {}
    for site in sites:
        folded.setdefault((pattern(site.path), *_values(site)), []).append(site)
    for (path, stack, *values), group in folded.items():
        layers = ",".join(str(site.layer) for site in group) if len(group) < 3 else _span([s.layer for s in group])
        rows.append((path, stack, layers, *values))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def pattern(path: str) -> str:
    """``path`` with ``{i}`` in place of every layer number."""
    return ".".join("{i}" if part.isdigit() else part for part in path.split("."))


def _values(site: RouterSite) -> tuple[str, ...]:
    """The cells of a site's row, all but path and layers."""
    keyable = "yes" if site.keyable else f"no: {site.reason}"
    numbers = (str(site.num_experts), str(site.top_k), str(site.hidden_size))
    return (site.stack, site.router_class, *numbers, site.unit, keyable)


def _span(layers: list[int]) -> str:
    """Layer numbers in short, such as ``1-27`` or ``1-11 step 2``."""
    steps = {after - before for before, after in pairwise(layers)}
    if len(steps) == 1:
        step = steps.pop()
        return f"{layers[0]}-{layers[-1]}" + (f" step {step}" if step != 1 else "")
    return ",".join(map(str, layers))
