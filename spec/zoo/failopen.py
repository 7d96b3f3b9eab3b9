"""Bugs with numbers that are not sound."""

import math

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter
from . import seeded

REST = (
    "OKR-KEY",
    "OKR-SCORE",
    "OKR-ZONE-002",
    "OKR-ZONE-003",
    "OKR-ZONE-004",
    "OKR-ZONE-005",
    "OKR-STR",
    "OKR-TIE-001",
    "OKR-TIE-003",
    "OKR-SEL-010",
    "OKR-SEL-012",
)


@seeded(
    "NaN raises", fails=("OKR-FAIL-001",), passes=(*REST, "OKR-SEL", "OKR-FAIL-002", "OKR-FAIL-003", "OKR-FAIL-007")
)
class RaisesAtNan(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        if np.isnan(c).any():
            raise FloatingPointError("NaN in the scores")
        return super().sound(c, top_k)


@seeded(
    "NaN taken as barred",
    fails=("OKR-FAIL-001",),
    passes=(*REST, "OKR-SEL", "OKR-FAIL-002", "OKR-FAIL-003", "OKR-FAIL-004", "OKR-FAIL-005"),
)
class NanBarred(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c != math.inf).all(axis=1))

    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(np.where(np.isnan(c), np.float32(-math.inf), c), top_k, epsilon, zone)


@seeded(
    "+inf taken as a large number",
    fails=("OKR-FAIL-002",),
    passes=(*REST, "OKR-SEL", "OKR-FAIL-001", "OKR-FAIL-004", "OKR-FAIL-005"),
)
class InfiniteIsLarge(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c <= math.inf).all(axis=1) & ((c > -math.inf).sum(axis=1) >= top_k))

    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(np.where(c == math.inf, np.float32(9), c), top_k, epsilon, zone)


@seeded(
    "-inf taken as a large negative number",
    fails=("OKR-FAIL-003", "OKR-ZONE-006"),
    passes=(*REST, "OKR-FAIL-001", "OKR-FAIL-002", "OKR-FAIL-004"),
)
class BarredIsLow(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(np.where(c == -math.inf, np.float32(-1e30), c), top_k, epsilon, zone)

    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c < math.inf).all(axis=1))


@seeded(
    "short lists padded with expert 0",
    fails=("OKR-FAIL-003", "OKR-SEL-003"),
    passes=(
        *REST,
        "OKR-SEL-002",
        "OKR-SEL-004",
        "OKR-SEL-005",
        "OKR-SEL-009",
        "OKR-SEL-011",
        "OKR-FAIL-001",
        "OKR-FAIL-002",
        "OKR-FAIL-004",
    ),
)
class PadsWithZero(NumpyRouter):
    def native(self, c: Array, top_k: int) -> Array:
        best = super().native(c, top_k)
        return np.where(np.take_along_axis(c, best, 1) == -math.inf, 0, best)


@seeded(
    "a broken key score wins",
    fails=("OKR-FAIL-004",),
    passes=(*REST, "OKR-SEL", "OKR-FAIL-001", "OKR-FAIL-002", "OKR-FAIL-003", "OKR-FAIL-005"),
)
class ObeysBrokenKeys(NumpyRouter):
    def key_is_sound(self, g: Array) -> Array:
        return np.ones(len(g), bool)


@seeded(
    "only NaN key scores looked for",
    fails=("OKR-FAIL-004",),
    passes=(*REST, "OKR-SEL", "OKR-FAIL-001", "OKR-FAIL-002", "OKR-FAIL-003"),
)
class ObeysInfiniteKeys(NumpyRouter):
    def key_is_sound(self, g: Array) -> Array:
        return np.asarray(~np.isnan(g).any(axis=1))


@seeded(
    "exactly k candidates: two of them replaced",
    fails=("OKR-FAIL-005",),
    passes=("OKR-KEY", "OKR-SCORE", "OKR-FAIL-001", "OKR-FAIL-002", "OKR-SEL-012"),
)
class ReplacesTheLast(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        tight = ((c > -math.inf).sum(axis=1) == top_k)[:, None] & (np.full(c.shape, top_k) < c.shape[1])
        return np.where(tight, True, pool), np.where(tight, False, locked)


@seeded(
    "one broken token stops the whole batch",
    fails=("OKR-FAIL-006",),
    passes=(*REST, "OKR-FAIL-001", "OKR-FAIL-002", "OKR-FAIL-004"),
)
class StopsTheBatch(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.full(len(c), bool(super().sound(c, top_k).all()))


@seeded(
    "scores above 1e30 taken as infinite",
    fails=("OKR-FAIL-007",),
    passes=(*REST, "OKR-SEL", "OKR-FAIL-001", "OKR-FAIL-002", "OKR-FAIL-004"),
)
class LargeIsInfinite(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray(super().sound(c, top_k) & (np.where(np.isfinite(c), np.abs(c), 0) < 1e30).all(axis=1))
