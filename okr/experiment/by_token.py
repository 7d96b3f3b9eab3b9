"""What samples show token by token: the p-value after a token, hit rates along the text, and the texts with marks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from okr.experiment.sample_results import Sample, TokenRows
from okr.intervals import Interval, mean
from okr.pages.coloured_text import Coloured, coloured


@dataclass(frozen=True)
class Curve:
    """The p-values of several samples after their first, second, ... token: the median, smallest and largest of each,
    float64 [tokens]. It ends with the shortest sample."""

    median: Float[np.ndarray, " tokens"]
    smallest: Float[np.ndarray, " tokens"]
    largest: Float[np.ndarray, " tokens"]


def p_curve(samples: Sequence[Sample]) -> Curve | None:
    """The p-values after each token, or None where the counts by token are missing."""
    rows = _rows(samples)
    if not rows:
        return None
    length = min(len(row.p_value) for row in rows) - 1  # the last token was not routed
    grid = np.array([row.p_value[:length] for row in rows])
    return Curve(np.median(grid, 0), grid.min(0), grid.max(0))


def hit_rates_along(samples: Sequence[Sample], parts: int) -> list[tuple[float, Interval]]:
    """The mean hit rate in each of ``parts`` parts of the tokens, with the part's middle token. A part without free
    slots is left out."""
    rows = _rows(samples)
    if not rows:
        return []
    length = min(len(row.text) for row in rows) - 1
    ends = np.unique(np.linspace(0, length, parts + 1).round().astype(int))
    found = []
    for first, last in itertools.pairwise(ends.tolist()):
        free = [sum(row.free_slots[first:last]) for row in rows]
        matched = [sum(row.matched[first:last]) for row in rows]
        rates = [hits / slots for hits, slots in zip(matched, free, strict=True) if slots]
        if rates:
            found.append(((first + last + 1) / 2, mean(rates, least=0.0, most=1.0)))
    return found


def marked(sample: Sample) -> Markup:
    """The new text of ``sample`` in HTML, with marks at the tokens that have swaps. Space before the text is left out.
    It is empty where the counts by token are missing."""
    if sample.tokens is None:
        return Markup()
    first = max(0, len(sample.tokens.text) - sample.new_tokens)
    pieces = sample.tokens.text[first:]
    begun = next((index for index, piece in enumerate(pieces) if piece.strip()), 0)
    pieces = [
        "" if index < begun else piece.lstrip() if index == begun else piece for index, piece in enumerate(pieces)
    ]
    return coloured(Coloured("", "", pieces, sample.tokens.swaps[first:], ()))


def _rows(samples: Sequence[Sample]) -> list[TokenRows]:
    """The counts by token of all samples, or nothing where one lacks them."""
    rows = [sample.tokens for sample in samples if sample.tokens is not None and len(sample.tokens.text) > 1]
    return rows if len(rows) == len(samples) else []
