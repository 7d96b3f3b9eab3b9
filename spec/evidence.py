"""The oracle of chapter EVIDENCE: swap weights, z and p-value, token by token. It shares no code with okr.detection."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import oracle
from .cases import Evidence, EvidenceCase, Routed, Setting
from .verdicts import require

Matrix = NDArray[np.float64]
REACH = 4.0
LEAST = 1e-12
PRECISION = 1e-6
"""The relative error that z and a p-value may have."""


@dataclass(frozen=True)
class Gathered:
    """The weights [T, E] of each part that replays show, and W [d, E] of each site."""

    weights: tuple[Matrix, ...]
    totals: dict[tuple[str, int], Matrix]


def swap_weights(shown: Routed, setting: Setting) -> Matrix:
    """The weights of every token, [T, E] (OKR-EVIDENCE-001, 002)."""
    weights = np.zeros(shown.choice.shape)
    for token, row in enumerate(shown.choice.tolist()):
        ran = shown.experts[token].tolist()
        if min(ran) < 0 or not all(map(math.isfinite, shown.hidden[token].tolist())):
            continue
        swapped = set(ran) ^ set(oracle.native(row, setting.top_k))
        counting = swapped & _pool(row, setting) & _pool(row, _reach(setting))
        for expert in counting:
            size = 1 / (1 + len(swapped - counting))
            weights[token, expert] = size if expert in ran else -size
    return weights


def _reach(setting: Setting) -> Setting:
    return replace(setting, zone="boundary", epsilon=REACH * setting.strength)


def _pool(row: Sequence[float], setting: Setting) -> frozenset[int]:
    """The experts that compete; one of the legal pools where rounding decides."""
    return oracle.zones(row, [0.0] * len(row), setting)[0].pool


def summed(hidden: Any, weights: Matrix) -> Matrix:
    """The sum over tokens of the outer products of h / ||h|| and the weights, [d, E] (OKR-EVIDENCE-003)."""
    total = np.zeros((hidden.shape[1], weights.shape[1]))
    for state, weight in zip(hidden.astype(np.float64), weights, strict=True):
        norm = math.sqrt(math.fsum(x * x for x in state.tolist()))
        if norm > 0 and weight.any():
            total += np.outer(state / norm, weight)
    return total


def distance(sites: Iterable[tuple[Matrix, Any]]) -> float:
    """z, from W and the projection [d, E] of every site (OKR-EVIDENCE-003, 005)."""
    pairs = [(float(w), int(p)) for total, signs in sites for w, p in zip(total.flat, signs.flat, strict=True)]
    squared = math.fsum(w * w for w, _ in pairs)
    return math.fsum(w * p for w, p in pairs) / math.sqrt(squared) if squared > LEAST else 0.0


def p_value(z: float) -> float:
    """The p-value (OKR-EVIDENCE-004). The normal tail Q(x) is erfc(x / sqrt 2) / 2."""
    return min(1.0, max(1e-300, math.erfc(z / math.sqrt(2)) / (4 * math.erfc(1))))


def fisher(ranks: Sequence[float]) -> float:
    """The combined p-value of the ranks at sites (OKR-EVIDENCE-007).

    The tail of chi-squared with 2 s degrees of freedom at 2x is exp(-x) times the first s terms of the series of
    exp(x).
    """
    x = -math.fsum(map(math.log, ranks))
    return math.fsum(math.exp(k * math.log(x) - x - math.lgamma(k + 1)) if x else k == 0 for k in range(len(ranks)))


def expected_swaps(shown: Sequence[Routed], setting: Setting, draws: int = 60) -> float:
    """How many experts random keys swap in on average, key scores drawn from the standard normal law."""
    numbers, found = np.random.default_rng(0), 0.0
    for part in shown:
        for token, row in enumerate(part.choice.tolist()):
            if min(part.experts[token]) < 0 or not np.isfinite(part.hidden[token]).all():
                continue
            zone = oracle.zones(row, [0.0] * len(row), setting)[0]
            native = set(oracle.native(row, setting.top_k))
            for scores in numbers.standard_normal((draws, len(row))).tolist():
                found += len(_first(row, scores, zone, setting) - native) / draws
    return found


def _first(row: Sequence[float], scores: Sequence[float], zone: oracle.Zone, setting: Setting) -> set[int]:
    """The experts of the pool that take the free slots."""
    hard = math.isinf(setting.strength)
    preferences = {e: scores[e] if hard else row[e] + setting.strength * scores[e] for e in zone.pool}
    free = setting.top_k - len(zone.locked) if zone.pool else 0
    return set(sorted(preferences, key=preferences.__getitem__, reverse=True)[:free])


def gathered(shown: Sequence[Routed], setting: Setting) -> Gathered:
    """The weights and sums that follow from what replays show, whatever the key."""
    weights = tuple(swap_weights(part, setting) for part in shown)
    totals: dict[tuple[str, int], Matrix] = {}
    for part, weight in zip(shown, weights, strict=True):
        totals[part.place] = totals.get(part.place, 0) + summed(part.hidden, weight)
    return Gathered(weights, totals)


def under(secret: bytes, found: Gathered) -> Evidence:
    """The evidence for the key of a secret."""
    swaps = sum(int((weight > 0).sum()) for weight in found.weights)
    z = distance((total, _signs(secret, place, total)) for place, total in found.totals.items())
    return Evidence(found.weights, swaps, z, p_value(z))


def answer(case: EvidenceCase) -> Evidence:
    """The evidence of a case."""
    return under(case.secret, gathered(case.shown, case.setting))


def _signs(secret: bytes, place: tuple[str, int], total: Matrix) -> NDArray[np.int8]:
    size, experts = total.shape
    return oracle.projection(secret, stack=place[0], layer=place[1], hidden_size=size, num_experts=experts)


def require_close(what: str, expected: float, got: float, *, near: float = 0.0) -> None:
    """Raise Violation unless two numbers agree to ``PRECISION``, or to within ``near``."""
    fine = math.isclose(expected, got, rel_tol=PRECISION, abs_tol=near)
    require(fine, what, expected=expected, got=got)


def require_same_z(what: str, expected: float, got: float) -> None:
    """Raise Violation unless two z agree; sums of both signs that cancel leave rounding."""
    require_close(f"{what}: z", expected, got, near=1e-9)
