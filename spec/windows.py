"""The oracle of the windows and spans of chapter EVIDENCE, window by window. It shares no code with okr.detection."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import evidence, oracle
from .cases import Routed, Setting
from .evidence import Matrix

LONGEST, BREAK, CANCELLED = 512, 8.0, 1e-6
DOUBT = 0.3
"""A run of tokens is in doubt where the swaps of random keys, an average over draws, lie this near to BREAK."""


@dataclass(frozen=True)
class Window:
    """The tokens ``start`` to ``end`` - 1, and the p-value over all windows."""

    start: int
    end: int
    p_value: float


def places(tokens: int) -> Iterator[tuple[int, int, int]]:
    """First token, end and number of tests of every window over ``tokens`` tokens."""
    lengths = {factor * 2**power for factor in (1, 3) for power in range(10)}
    lengths = {length for length in lengths if length <= min(LONGEST, tokens)} | {tokens}
    for length in lengths:
        step = 1
        while 16 * step <= length:
            step *= 2
        starts = range(0, tokens - length + 1, step)
        for start in starts:
            yield start, start + length, len(lengths) * len(starts)


def windows(shown: Sequence[Routed], secret: bytes, setting: Setting) -> list[Window]:
    """Every window over the tokens that replays show at decoder sites."""
    sites = [part for part in shown if part.stack == "decoder"]
    weights = [evidence.swap_weights(part, setting) for part in sites]
    swapped = np.any([weight.any(1) for weight in weights], axis=0).tolist()
    runs = _long_runs(sites, setting, swapped)
    found = []
    for first, end, tests in places(len(swapped)):
        here = [token for token in range(first, end) if swapped[token]]
        if not here or any(here[0] <= start and stop <= here[-1] + 1 for start, stop in runs):
            continue
        p = _p_value(sites, weights, slice(here[0], here[-1] + 1), secret)
        found.append(Window(here[0], here[-1] + 1, min(1.0, tests * p)))
    return found


def _p_value(sites: Sequence[Routed], weights: Sequence[Matrix], tokens: slice, secret: bytes) -> float:
    """The p-value of the tokens of one window alone."""
    pairs = []
    for part, weight in zip(sites, weights, strict=True):
        total = evidence.summed(part.hidden[tokens], weight[tokens])
        signs = oracle.projection(
            secret, stack=part.stack, layer=part.layer, hidden_size=total.shape[0], num_experts=total.shape[1]
        )
        pairs.append((total, signs))
    squared = math.fsum(float((total * total).sum()) for total, _ in pairs)
    return evidence.p_value(evidence.distance(pairs)) if squared > CANCELLED else 1.0


def _long_runs(sites: Sequence[Routed], setting: Setting, swapped: Sequence[bool]) -> list[tuple[int, int]]:
    """The runs of tokens without a swap between tokens with one, at which random keys would make BREAK or more. Raises
    ValueError for a run that is in doubt."""
    marks = [token for token, found in enumerate(swapped) if found]
    runs = []
    for before, after in itertools.pairwise(marks):
        within = slice(before + 1, after)
        parts = [
            replace(part, choice=part.choice[within], hidden=part.hidden[within], experts=part.experts[within])
            for part in sites
        ]
        expected = evidence.expected_swaps(parts, setting) if after > before + 1 else 0.0
        if abs(expected - BREAK) < DOUBT * BREAK:
            raise ValueError(f"the tokens {before + 1} to {after - 1} are in doubt: {expected} swaps of random keys")
        if expected >= BREAK:
            runs.append((before + 1, after))
    return runs


def spans(found: Sequence[Window], alpha: float) -> list[Window]:
    """The spans that follow from windows (OKR-EVIDENCE-010)."""
    small = {(w.start, w.end) for w in found if w.p_value <= alpha}
    shortest = [
        (start, end) for start, end in small if not any(start <= a and b <= end for a, b in small - {(start, end)})
    ]
    joined: list[list[int]] = []
    before = 0
    for start, end in sorted(shortest):
        if joined and start - joined[-1][1] <= min(before, end - start):
            joined[-1][1] = end
        else:
            joined.append([start, end])
        before = end - start
    return [
        Window(start, end, min(w.p_value for w in found if start <= w.start and w.end <= end)) for start, end in joined
    ]
