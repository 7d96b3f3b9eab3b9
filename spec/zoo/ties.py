"""Bugs with numbers that tie, or nearly."""

import math

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter
from . import seeded
from .zone import rounded

REST = ("OKR-KEY", "OKR-SCORE", "OKR-ZONE-001", "OKR-SEL-011", "OKR-ZONE-008", "OKR-SEL-003", "OKR-SEL-012")
CLEAR = ("OKR-ZONE-002", "OKR-ZONE-003", "OKR-ZONE-004", "OKR-ZONE-005", "OKR-STR-001", "OKR-SEL-007", "OKR-SEL-010")


def _last_first(values: Array) -> Array:
    """Ascending, ties to the higher index."""
    width = values.shape[1]
    return np.asarray(width - 1 - np.argsort(values[:, ::-1], axis=1, kind="stable"))


@seeded(
    "equal preferences go to the higher index",
    fails=("OKR-TIE-001",),
    passes=(*REST, *CLEAR, "OKR-TIE-002", "OKR-TIE-003"),
)
class HigherPreference(NumpyRouter):
    def members(self, preference: Array, pool: Array, locked: Array, top_k: int) -> Array:
        rank = np.where(locked, math.inf, np.where(pool, preference, -math.inf))
        members = np.zeros_like(pool)
        np.put_along_axis(members, _last_first(-rank)[:, :top_k], True, axis=1)
        return members


@seeded(
    "native ties go to the higher index",
    fails=("OKR-TIE-002", "OKR-SEL-001"),
    passes=(*REST[:2], *CLEAR, "OKR-TIE-001", "OKR-TIE-003"),
)
class HigherNative(NumpyRouter):
    def native(self, c: Array, top_k: int) -> Array:
        best = np.sort(_last_first(-c)[:, :top_k], axis=1)
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(c, best, 1), axis=1, kind="stable"), 1)


@seeded(
    "output ties in descending index order",
    fails=("OKR-TIE-003", "OKR-SEL-002"),
    passes=(*REST, *CLEAR, "OKR-TIE-001", "OKR-TIE-002"),
)
class HigherOutput(NumpyRouter):
    def ordered(self, c: Array, members: Array, top_k: int) -> Array:
        return _last_first(np.where(members, -c, math.inf))[:, :top_k]


@seeded(
    "-0 sorted below +0", fails=("OKR-TIE-004",), passes=(*REST, *CLEAR, "OKR-TIE-002", "OKR-TIE-003", "OKR-TIE-006")
)
class SignedZeros(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        value = super().preference(c, g, strength)
        return np.where((value == 0) & np.signbit(value), np.float32(-1e-40), value)


@seeded(
    "equal sums go to the higher choice score",
    fails=("OKR-TIE-005",),
    passes=(*REST, *CLEAR, "OKR-TIE-001", "OKR-TIE-004"),
)
class ByChoice(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        value = super().preference(c, g, strength)
        return value if math.isinf(strength) else value + np.float32(1e-5) * c


@seeded(
    "equal preferences go to the higher choice score",
    fails=("OKR-TIE-001",),
    passes=(*REST, *CLEAR, "OKR-TIE-002", "OKR-TIE-003"),
)
class ByChoiceAlways(NumpyRouter):
    def members(self, preference: Array, pool: Array, locked: Array, top_k: int) -> Array:
        rank = np.where(locked, math.inf, np.where(pool, preference, -math.inf))
        members = np.zeros_like(pool)
        best = (
            np.stack([np.lexsort((-c, -r)) for c, r in zip(self.c, rank, strict=True)])
            if len(rank)
            else rank.astype(int)
        )
        np.put_along_axis(members, best[:, :top_k], True, axis=1)
        return members

    def preference(self, c: Array, g: Array, strength: float) -> Array:
        self.c = c
        return super().preference(c, g, strength)


@seeded("key scores rounded to bfloat16", fails=("OKR-TIE-006",), passes=(*REST, *CLEAR, "OKR-TIE-001", "OKR-TIE-002"))
class RoughKeys(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return super().preference(c, rounded(g), strength)


@seeded("key scores within 1e-6 tie", fails=("OKR-TIE-006",), passes=(*REST, *CLEAR, "OKR-TIE-001", "OKR-TIE-002"))
class Close(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return super().preference(c, np.round(g.astype(np.float64), 6).astype(np.float32), strength)


@seeded(
    "choice scores rounded to bfloat16",
    fails=("OKR-TIE-007",),
    passes=("OKR-KEY", "OKR-SCORE", *CLEAR, "OKR-TIE-001", "OKR-TIE-002"),
)
class RoughChoice(NumpyRouter):
    def select(self, choice: Array, key_scores: Array, **setting: object) -> object:  # type: ignore[override]
        return super().select(rounded(choice), key_scores, **setting)  # type: ignore[arg-type]


@seeded("an unstable sort", fails=("OKR-TIE-001",), passes=(*REST[:2], "OKR-ZONE-008", *CLEAR))
class Unstable(NumpyRouter):
    def argsort(self, values: Array) -> Array:
        shuffled = np.random.default_rng(0).permutation(values.shape[1])
        return shuffled[np.argsort(values[:, shuffled], axis=1, kind="stable")]
