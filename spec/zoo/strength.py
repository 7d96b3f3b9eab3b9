"""Bugs of the preference."""

import math

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter
from . import seeded
from .zone import rounded

REST = (
    "OKR-KEY",
    "OKR-SCORE",
    "OKR-SEL-001",
    "OKR-SEL-003",
    "OKR-SEL-004",
    "OKR-SEL-012",
    "OKR-TIE-002",
    "OKR-TIE-003",
    "OKR-FAIL",
    "OKR-ZONE-001",
    "OKR-ZONE-008",
)
HARD = ("OKR-STR-001", "OKR-SEL-010", "OKR-SEL-013", "OKR-TIE-001", "OKR-TIE-006", "OKR-ZONE-002", "OKR-ZONE-005")


@seeded(
    "a moderate number in place of infinite strength",  # large choice scores then silence the key: OKR-FAIL-007
    fails=("OKR-STR-001", "OKR-FAIL-007"),
    passes=(*REST, "OKR-STR-002", "OKR-STR-004"),
)
class NearlyInfinite(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return super().preference(c, g, 8.0 if math.isinf(strength) else strength)


@seeded("g + lambda c", fails=("OKR-STR-002", "OKR-STR-006"), passes=(*REST, *HARD, "OKR-STR-004"))
class WrongWayRound(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return g if math.isinf(strength) else g + np.float32(min(strength, 1e30)) * c


@seeded(
    "strength ignored",
    fails=("OKR-STR-002", "OKR-STR-006"),
    passes=(*REST, *HARD, "OKR-STR-004", "OKR-STR-005", "OKR-STR-007"),
)
class IgnoresStrength(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return g


@seeded(
    "lambda taken as its inverse",
    fails=("OKR-STR-002", "OKR-STR-006", "OKR-STR-007"),
    passes=(*REST, *HARD, "OKR-STR-004"),
)
class Inverse(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return g if math.isinf(strength) else c + g / np.float32(min(strength, 1e30))


@seeded("sums in bfloat16", fails=("OKR-STR-003",), passes=(*REST, *HARD, "OKR-STR-004"))
class RoughSums(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        value = super().preference(c, g, strength)
        return value if math.isinf(strength) else rounded(np.clip(value, -1e38, 1e38))


@seeded("sums in float16", fails=("OKR-STR-003",), passes=(*REST, *HARD))
class HalfPreferences(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        value = super().preference(c, g, strength)
        return value if math.isinf(strength) else np.clip(value, -6e4, 6e4).astype(np.float16).astype(np.float32)


@seeded(
    "pool and lock as a finite bonus",
    fails=("OKR-STR-004",),
    passes=(*REST, "OKR-STR-001", "OKR-STR-006", "OKR-TIE-001"),
)
class FiniteBonus(NumpyRouter):
    def members(self, preference: Array, pool: Array, locked: Array, top_k: int) -> Array:
        bonus = np.where(locked, np.float32(2e3), np.where(pool, np.float32(0), np.float32(-1e3)))
        members = np.zeros_like(pool)
        finite = np.where(np.isfinite(preference), preference, 0)
        np.put_along_axis(members, self.argsort(-(finite + bonus))[:, :top_k], True, axis=1)
        return members


@seeded("a finite strength drops epsilon", fails=("OKR-STR-004",), passes=(*REST, *HARD, "OKR-STR-002"))
class DropsEpsilon(NumpyRouter):
    def members(self, preference: Array, pool: Array, locked: Array, top_k: int) -> Array:
        soft = self.soft
        return super().members(preference, pool | soft, locked & ~soft, top_k)

    def preference(self, c: Array, g: Array, strength: float) -> Array:
        self.soft = (c > -math.inf) & math.isfinite(strength)
        return super().preference(c, g, strength)


@seeded(
    "overflow ties with locked experts",
    fails=("OKR-STR-005",),
    passes=(*REST, *HARD, "OKR-STR-002", "OKR-STR-004", "OKR-STR-006"),
)
class Overflows(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return g if math.isinf(strength) else c + np.float32(strength) * g


@seeded(
    "strength clipped to 1", fails=("OKR-STR-007",), passes=(*REST, *HARD, "OKR-STR-004", "OKR-STR-005", "OKR-STR-006")
)
class Clipped(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return g if math.isinf(strength) else super().preference(c, g, min(strength, 1.0))


@seeded(
    "the smallest key wins",
    fails=("OKR-STR-001", "OKR-SEL-002", "OKR-SEL-010"),
    passes=("OKR-KEY", "OKR-SCORE", "OKR-SEL-001", "OKR-FAIL-004"),
)
class Smallest(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return super().preference(c, -g, strength)
