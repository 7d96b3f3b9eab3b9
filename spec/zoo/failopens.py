"""Bugs with numbers that are not sound."""

import math

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter
from . import seeded

REST = (
    "KEY",
    "SCORE",
    "ZONE-002",
    "ZONE-003",
    "ZONE-004",
    "ZONE-005",
    "STR",
    "TIE-001",
    "TIE-003",
    "SEL-010",
    "SEL-012",
)


@seeded("NaN raises", fails=("FAIL-001",), passes=(*REST, "SEL", "FAIL-002", "FAIL-003", "FAIL-007"))
class RaisesAtNan(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        if np.isnan(c).any():
            raise FloatingPointError("NaN in the scores")
        return super().sound(c, top_k)


@seeded(
    "NaN taken as barred", fails=("FAIL-001",), passes=(*REST, "SEL", "FAIL-002", "FAIL-003", "FAIL-004", "FAIL-005")
)
class NanBarred(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c != math.inf).all(axis=1))

    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(np.where(np.isnan(c), np.float32(-math.inf), c), top_k, epsilon, zone)


@seeded("+inf taken as a large number", fails=("FAIL-002",), passes=(*REST, "SEL", "FAIL-001", "FAIL-004", "FAIL-005"))
class InfiniteIsLarge(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c <= math.inf).all(axis=1) & ((c > -math.inf).sum(axis=1) >= top_k))

    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(np.where(c == math.inf, np.float32(9), c), top_k, epsilon, zone)


@seeded(
    "-inf taken as a large negative number",
    fails=("FAIL-003", "ZONE-006"),
    passes=(*REST, "FAIL-001", "FAIL-002", "FAIL-004"),
)
class BarredIsLow(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(np.where(c == -math.inf, np.float32(-1e30), c), top_k, epsilon, zone)

    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c < math.inf).all(axis=1))


@seeded(
    "short lists padded with expert 0",
    fails=("FAIL-003", "SEL-003"),
    passes=(*REST, "SEL-002", "SEL-004", "SEL-005", "SEL-009", "SEL-011", "FAIL-001", "FAIL-002", "FAIL-004"),
)
class PadsWithZero(NumpyRouter):
    def native(self, c: Array, top_k: int) -> Array:
        best = super().native(c, top_k)
        return np.where(np.take_along_axis(c, best, 1) == -math.inf, 0, best)


@seeded(
    "a broken key score wins",
    fails=("FAIL-004",),
    passes=(*REST, "SEL", "FAIL-001", "FAIL-002", "FAIL-003", "FAIL-005"),
)
class ObeysBrokenKeys(NumpyRouter):
    def key_is_sound(self, g: Array) -> Array:
        return np.ones(len(g), bool)


@seeded(
    "only NaN key scores looked for", fails=("FAIL-004",), passes=(*REST, "SEL", "FAIL-001", "FAIL-002", "FAIL-003")
)
class ObeysInfiniteKeys(NumpyRouter):
    def key_is_sound(self, g: Array) -> Array:
        return np.asarray(~np.isnan(g).any(axis=1))


@seeded(
    "exactly k candidates: two of them replaced",
    fails=("FAIL-005",),
    passes=("KEY", "SCORE", "FAIL-001", "FAIL-002", "SEL-012"),
)
class ReplacesTheLast(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        tight = ((c > -math.inf).sum(axis=1) == top_k)[:, None] & (np.full(c.shape, top_k) < c.shape[1])
        return np.where(tight, True, pool), np.where(tight, False, locked)


@seeded(
    "one broken token stops the whole batch", fails=("FAIL-006",), passes=(*REST, "FAIL-001", "FAIL-002", "FAIL-004")
)
class StopsTheBatch(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.full(len(c), bool(super().sound(c, top_k).all()))


@seeded(
    "scores above 1e30 taken as infinite",
    fails=("FAIL-007",),
    passes=(*REST, "SEL", "FAIL-001", "FAIL-002", "FAIL-004"),
)
class LargeIsInfinite(NumpyRouter):
    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray(super().sound(c, top_k) & (np.where(np.isfinite(c), np.abs(c), 0) < 1e30).all(axis=1))
