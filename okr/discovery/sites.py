"""What a router site is: the record that everything else works from."""

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

    path: of the module whose forward ranks them (a router; a whole block where the block itself ranks).
    stack: ``decoder`` or ``encoder``, with a named suffix for a second router in one layer. layer: the transformer
    layer's index. num_experts: how many it ranks, skip and zero experts included. top_k: how many it keeps.
    hidden_size: of its input. unit: of epsilon at this site. keyable, and the reason where it is not.

    What the engine goes by: ranks, what it ranks; calls, the functions by which one forward ranks, in their order,
    each with the place among the kept experts that it decides (0, except where experts are picked one by one); flat,
    whether the ranked scores are [tokens, experts] even where the input is [batch, tokens, hidden].
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
    """The sites as a readable table, one line each, runs of equal layers folded into one."""
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
    """A path with its layer numbers as ``{i}``."""
    return ".".join("{i}" if part.isdigit() else part for part in path.split("."))


def _values(site: RouterSite) -> tuple[str, ...]:
    keyable = "yes" if site.keyable else f"no: {site.reason}"
    numbers = (str(site.num_experts), str(site.top_k), str(site.hidden_size))
    return (site.stack, site.router_class, *numbers, site.unit, keyable)


def _span(layers: list[int]) -> str:
    steps = {after - before for before, after in pairwise(layers)}
    if len(steps) == 1:
        step = steps.pop()
        return f"{layers[0]}-{layers[-1]}" + (f" step {step}" if step != 1 else "")
    return ",".join(map(str, layers))
