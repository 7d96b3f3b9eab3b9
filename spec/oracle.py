"""The oracle: what an answer may be, in exact arithmetic. Slow and plain; shares no code with any implementation.

Scores reach ``select`` exactly, so an expert's place is open only where an implementation's own rounding may decide:
the two zone edges (one addition) and, with a finite strength, the preference (one product, one sum). ``zones`` lists
every zone that the stated bounds allow, ``illegal`` judges a selection against all of them, and neither ever excuses
more than those bounds (clauses OKR-ZONE-011, OKR-STR-003, OKR-TIE-006).
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .cases import FloatArray, SelectCase, Selected, Setting

INF = math.inf
EDGE_BOUND = Fraction(1, 2**23)  # of |score| + epsilon: epsilon rounded to float32, then one float32 addition
PREFERENCE_BOUND = Fraction(1, 2**22)  # of |c| + |strength * g|: strength rounded, one product, one sum
TINY = Fraction(1, 2**126)  # smaller numbers may be flushed to zero
OVERFLOW = Fraction(2**127)  # a preference beyond this may overflow on the way: any order is legal, the zone is not
Number = Fraction | float


# --- keys and key scores -------------------------------------------------------------------------------------------


def projection(secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int) -> NDArray[np.int8]:
    """The +1/-1 matrix of a site, bit by bit (OKR-KEY-002 to 004)."""
    message = b"OKR-v1" + b"\x00" + len(secret).to_bytes(2, "big") + secret + stack.encode() + b"\x00"
    message += layer.to_bytes(4, "big") + hidden_size.to_bytes(4, "big") + num_experts.to_bytes(4, "big")
    stream = hashlib.shake_256(message).digest(hidden_size * num_experts // 8 + 1)
    matrix = np.empty((hidden_size, num_experts), dtype=np.int8)
    for row in range(hidden_size):
        for column in range(num_experts):
            position = row * num_experts + column
            bit = stream[position // 8] >> (7 - position % 8) & 1
            matrix[row, column] = 1 if bit else -1
    return matrix


def key_scores(hidden: FloatArray, signs: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Key scores [T, E] to within 2^-50 of their scale, and the error [T, 1] an implementation may make.

    The bound is (2 d + 16) 2^-24 sum|h| / ||h||: float32 rounding of normalising and of adding d terms in any order.
    """
    tokens, size = hidden.shape
    exact = np.zeros((tokens, signs.shape[1]))
    bound = np.zeros((tokens, 1))
    for token in range(tokens):
        row = [float(v) for v in hidden[token]]
        norm = math.sqrt(math.fsum(v * v for v in row))
        if norm > 0:
            bound[token] = (2 * size + 16) * 2.0**-24 * math.fsum(abs(v) for v in row) / norm
            for expert in range(signs.shape[1]):
                exact[token, expert] = math.fsum(v * int(s) for v, s in zip(row, signs[:, expert], strict=True)) / norm
    return exact, bound


# --- zones ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Zone:
    """One legal outcome of drawing the zone; empty where the token is no opportunity."""

    pool: frozenset[int]
    locked: frozenset[int]
    opportunity: bool


def zones(choice: Sequence[float], key: Sequence[float], setting: Setting) -> list[Zone]:
    """Every zone this token may have. One, unless scores lie within rounding of an edge."""
    candidates = [e for e, c in enumerate(choice) if c > -INF]
    sound = all(c < INF for c in choice) and len(candidates) >= setting.top_k and all(map(math.isfinite, key))
    if not sound:
        return [Zone(frozenset(), frozenset(), False)]
    ranked = sorted((choice[e] for e in candidates), reverse=True)
    if setting.zone == "max":
        lower, locks = ranked[0], [frozenset[int]()]
    else:
        lower = ranked[setting.top_k - 1]
        out = ranked[setting.top_k] if setting.top_k < len(ranked) else -INF
        locks = _upper_sets(choice, candidates, out, +setting.epsilon, inclusive=False)
    found = []
    for reach in _upper_sets(choice, candidates, lower, -setting.epsilon, inclusive=True):
        for locked in locks:
            pool, free = reach - locked, setting.top_k - len(locked)
            opportunity = len(pool) > free > 0
            found.append(Zone(pool, locked, True) if opportunity else Zone(frozenset(), frozenset(), False))
    return list(dict.fromkeys(found))


def _upper_sets(
    choice: Sequence[float], candidates: Iterable[int], base: float, shift: float, *, inclusive: bool
) -> list[frozenset[int]]:
    """All sets {c >= t} (``inclusive``) or {c > t} for t within rounding of base + shift.

    Whatever way an implementation rounds, it cuts monotonically: an expert that scores higher is never out while a
    lower one is in. A score exactly on an edge that float32 represents is not open, nor is one at or above the score a
    lower edge starts from, or at or below the one the lock starts from.
    """
    if math.isinf(shift):
        return [frozenset(candidates) if shift < 0 else frozenset()]
    if base == -INF:
        return [frozenset(candidates)]
    edge = Fraction(base) + Fraction(shift)
    slack = EDGE_BOUND * (abs(Fraction(base)) + abs(Fraction(shift))) if shift else Fraction(0)
    exact = not shift or (_fits_float32(Fraction(shift)) and _fits_float32(edge))
    surely, maybe = set(), set()
    for e in candidates:
        score = Fraction(choice[e])
        if exact and score == edge:
            surely |= {e} if inclusive else set()
        elif score > edge + slack or (inclusive and score >= base):
            surely.add(e)
        elif score >= edge - slack and (inclusive or score > base):
            maybe.add(e)
    on_edge_out = exact and not inclusive and any(Fraction(choice[e]) == edge for e in candidates)
    ceiling = edge if on_edge_out else -INF
    floor = min((choice[e] for e in surely), default=INF)
    surely |= {e for e in maybe if choice[e] >= floor}
    found = [frozenset(surely)]
    for threshold in sorted({choice[e] for e in maybe - surely if choice[e] > ceiling}, reverse=True):
        found.append(frozenset(surely | {e for e in maybe if choice[e] >= threshold}))
    return found


def _fits_float32(value: Fraction) -> bool:
    in_range = value == 0 or TINY <= abs(value) < OVERFLOW
    return in_range and Fraction(float(np.float32(float(value)))) == value


# --- selection -----------------------------------------------------------------------------------------------------


def native(choice: Sequence[float], top_k: int) -> list[int]:
    """The k largest scores, ties to the lower index, in descending order."""
    return sorted(range(len(choice)), key=lambda e: (-choice[e], e))[:top_k]


@dataclass(frozen=True)
class Preference:
    """What an expert is ranked by, as an interval; experts of one ``kind`` get the very same value within it."""

    low: Number
    high: Number
    kind: tuple[float, float]


def preference(c: float, g: float, strength: float) -> Preference:
    """The key score alone, exactly, or c + strength * g within its rounding bound (OKR-STR-003)."""
    if strength == INF:
        return Preference(g, g, (0.0, g))
    push = Fraction(strength) * Fraction(g)
    value = Fraction(c) + push
    size = abs(Fraction(c)) + abs(push)
    if size >= OVERFLOW or strength >= OVERFLOW:
        return Preference(-INF, INF, (c, g))
    if all(map(_fits_float32, (Fraction(strength), push, value))):
        return Preference(value, value, (c, g))
    slack = PREFERENCE_BOUND * size + TINY * (1 + abs(Fraction(g)))
    return Preference(value - slack, value + slack, (c, g))


def cut_is_legal(preferences: dict[int, Preference], chosen: set[int]) -> bool:
    """Whether ``chosen`` can be the pool's best: exactly the experts before some point of some legal ranking.

    Ranked by value, then index. Let t be the value at the cut: every kind that is chosen in part lies at t, those
    wholly chosen can lie above, those wholly left out below. Where t is forced to one value, index decides among
    all that are bound to it.
    """
    inside = {preferences[e].kind for e in chosen}
    outside = {preferences[e].kind for e in preferences if e not in chosen}
    low = max((p.low for p in preferences.values() if p.kind in outside), default=-INF)
    high = min((p.high for p in preferences.values() if p.kind in inside), default=INF)
    if low > high:
        return False
    split = inside & outside
    tied = {e for e, p in preferences.items() if p.kind in split}
    if low == high:
        tied |= {e for e, p in preferences.items() if (p.high if p.kind in inside else p.low) == low}
    return max((e for e in tied if e in chosen), default=-1) < min((e for e in tied if e not in chosen), default=INF)


def illegal(choice: Sequence[float], key: Sequence[float], setting: Setting, answer: Sequence[int]) -> str:
    """Why this selection is not legal for this token; empty where it is."""
    if len(set(answer)) != len(answer) or not all(0 <= e < len(choice) for e in answer):
        return "not k distinct experts"
    allowed = zones(choice, key, setting)
    if not _judgeable(choice, setting.top_k):
        return ""
    if list(answer) != sorted(answer, key=lambda e: (-choice[e], e)):
        return "not in descending order of choice score, ties to the lower index"
    reasons = [_outside(choice, key, setting, answer, zone) for zone in allowed]
    return "" if "" in reasons else reasons[0]


def _judgeable(choice: Sequence[float], top_k: int) -> bool:
    """Whether the pure interface defines the native selection: no NaN, no +inf, k candidates (OKR-FAIL-001)."""
    return all(c < INF for c in choice) and sum(c > -INF for c in choice) >= top_k


def _outside(choice: Sequence[float], key: Sequence[float], setting: Setting, answer: Sequence[int], zone: Zone) -> str:
    if not zone.opportunity:
        return "" if list(answer) == native(choice, setting.top_k) else "no opportunity, yet not the native selection"
    taken = set(answer)
    if not zone.locked <= taken:
        return f"locked experts left out: {sorted(zone.locked - taken)}"
    if not taken <= zone.locked | zone.pool:
        return f"experts from outside the zone: {sorted(taken - zone.locked - zone.pool)}"
    ranks = {e: preference(choice[e], key[e], setting.strength) for e in zone.pool}
    return "" if cut_is_legal(ranks, taken - zone.locked) else "not the pool's first by preference"


def legal_selections(
    choice: Sequence[float], key: Sequence[float], setting: Setting, limit: int = 20_000
) -> list[list[int]] | None:
    """Every legal selection, by trying all; None where anything is legal or there are more than ``limit`` to try."""
    if not _judgeable(choice, setting.top_k):
        return None
    found: list[list[int]] = []
    for zone in zones(choice, key, setting):
        if not zone.opportunity:
            found.append(native(choice, setting.top_k))
            continue
        free = setting.top_k - len(zone.locked)
        if math.comb(len(zone.pool), free) > limit:
            return None
        ranks = {e: preference(choice[e], key[e], setting.strength) for e in zone.pool}
        for taken in combinations(sorted(zone.pool), free):
            if cut_is_legal(ranks, set(taken)):
                found.append(sorted({*taken, *zone.locked}, key=lambda e: (-choice[e], e)))
    return [list(s) for s in dict.fromkeys(map(tuple, found))]


# --- whole answers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One token whose answer is not legal."""

    token: int
    reason: str
    expected: str
    got: str


def rows(case: SelectCase) -> Iterator[tuple[list[float], list[float]]]:
    """Choice and key scores of each token as Python floats."""
    yield from zip(case.choice.tolist(), case.key.tolist(), strict=True)


def problem(case: SelectCase, answer: Selected) -> Problem | None:
    """The first token whose selection is not legal."""
    for token, (choice, key) in enumerate(rows(case)):
        taken = answer.indices[token].tolist()
        reason = illegal(choice, key, case.setting, taken)
        if reason:
            return Problem(token, reason, describe(choice, key, case.setting), str(taken))
    return None


def describe(choice: Sequence[float], key: Sequence[float], setting: Setting, most: int = 4) -> str:
    """The legal selections in a line."""
    legal = legal_selections(choice, key, setting)
    if legal is None:
        return f"any {setting.top_k} distinct experts" if not _judgeable(choice, setting.top_k) else "too many to list"
    more = f" or {len(legal) - most} more" if len(legal) > most else ""
    return " or ".join(map(str, legal[:most])) + more
