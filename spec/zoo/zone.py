"""Bugs of the zones."""

import math

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter, Selection
from ..strategies import bfloat16
from . import seeded

REST = (
    "OKR-KEY",
    "OKR-SCORE",
    "OKR-ZONE-001",
    "OKR-SEL-003",
    "OKR-SEL-011",
    "OKR-FAIL-001",
    "OKR-FAIL-002",
    "OKR-FAIL-003",
)
NATIVE = ("OKR-TIE-002", "OKR-FAIL-004", "OKR-SEL-012", "OKR-ZONE-008")


def rounded(values: Array) -> Array:
    """Rounded to bfloat16 where finite."""
    return np.where(np.isfinite(values), bfloat16(np.where(np.isfinite(values), values, 0)), values).astype(np.float32)


@seeded(
    "NaN settings pass the check", fails=("OKR-ZONE-001",), passes=(*REST, "OKR-STR", "OKR-SEL", "OKR-TIE", "OKR-FAIL")
)
class LaxSettings(NumpyRouter):
    def check(self, experts: int, top_k: int, epsilon: float, zone: str, strength: float) -> None:
        if top_k < 1 or top_k > experts or epsilon < 0 or strength <= 0 or zone not in ("max", "boundary"):
            raise ValueError("setting out of range")


@seeded(
    "unknown zones taken as boundary",
    fails=("OKR-ZONE-001",),
    passes=(*REST, "OKR-STR", "OKR-SEL", "OKR-TIE", "OKR-FAIL"),
)
class AnyZone(NumpyRouter):
    def check(self, experts: int, top_k: int, epsilon: float, zone: str, strength: float) -> None:
        super().check(experts, top_k, epsilon, "max", strength)


@seeded(
    "the max zone measured from the k-th score",
    fails=("OKR-ZONE-002", "OKR-SEL-002"),
    passes=(*REST, "OKR-ZONE-004", "OKR-ZONE-005", *NATIVE),
)
class FromTheKth(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        if zone == "max":
            kth = -np.sort(-c, axis=1)[:, top_k - 1, None]
            return (c > -math.inf) & (c >= self.lower_edge(kth, epsilon)), np.zeros(c.shape, bool)
        return super().zone(c, top_k, epsilon, zone)


@seeded(
    "the best expert locked in the max zone",
    fails=("OKR-ZONE-003", "OKR-SEL-010"),
    passes=(*REST, "OKR-ZONE-004", "OKR-ZONE-005", *NATIVE),
)
class KeepsTheBest(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        best = (c == c.max(axis=1, keepdims=True)) & (zone == "max")
        return pool & ~best, locked | best


@seeded(
    "locked from the (k+2)-th score", fails=("OKR-ZONE-004",), passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-003", *NATIVE)
)
class LocksTooMuch(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        if zone == "max" or math.isinf(epsilon):
            return pool, locked
        ranked = np.concatenate([-np.sort(-c, axis=1), np.full((len(c), 2), -math.inf, c.dtype)], axis=1)
        more = (c > self.upper_edge(ranked[:, top_k + 1, None], epsilon)) & (c >= ranked[:, top_k - 1, None])
        return pool & ~more, locked | more


@seeded(
    "nothing locked in the boundary zone",
    fails=("OKR-ZONE-004", "OKR-SEL-009"),
    passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-003", *NATIVE),
)
class LocksNothing(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        return pool | locked, np.zeros_like(locked)


@seeded("reach measured from b_out", fails=("OKR-ZONE-005",), passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-003", *NATIVE))
class ReachesTooFar(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        if zone == "max":
            return pool, locked
        ranked = np.concatenate([-np.sort(-c, axis=1), np.full((len(c), 1), -math.inf, c.dtype)], axis=1)
        return (c > -math.inf) & (c >= self.lower_edge(ranked[:, top_k, None], epsilon)) & ~locked, locked


@seeded("barred experts compete", fails=("OKR-ZONE-006", "OKR-ZONE-009"), passes=(*REST, "OKR-TIE-001", "OKR-SEL-012"))
class LetsInTheBarred(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        return pool | ((c == -math.inf) & math.isinf(epsilon)), locked


@seeded(
    "locked experts forgotten in the count of slots",
    fails=("OKR-ZONE-007",),
    passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-003", *NATIVE),
)
class CountsWrong(NumpyRouter):
    def opportunity(self, pool: Array, locked: Array, top_k: int) -> Array:
        return np.asarray(pool.sum(axis=1) > top_k)


@seeded(
    "infinite epsilon taken as none", fails=("OKR-ZONE-009", "OKR-STR-001"), passes=(*REST, "OKR-ZONE-011", *NATIVE)
)
class NoInfinity(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(c, top_k, 0.0 if math.isinf(epsilon) else epsilon, zone)


@seeded("zones capped at epsilon = 2", fails=("OKR-ZONE-009",), passes=(*REST, "OKR-ZONE-010", "OKR-ZONE-011", *NATIVE))
class Capped(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(c, top_k, min(epsilon, 2.0), zone)


@seeded("epsilon taken modulo 2", fails=("OKR-ZONE-010",), passes=(*REST, *NATIVE))
class Wraps(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(c, top_k, epsilon if math.isinf(epsilon) else epsilon % 2, zone)


@seeded(
    "the lower edge left outside",
    fails=("OKR-ZONE-011",),
    passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-004", "OKR-ZONE-005", "OKR-STR-001"),
)
class OpenEdge(NumpyRouter):
    def lower_edge(self, base: Array, epsilon: float) -> Array:
        return np.nextafter(super().lower_edge(base, epsilon), np.float32(math.inf))


@seeded(
    "the lock's edge locked",
    fails=("OKR-ZONE-011",),
    passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-004", "OKR-ZONE-005", "OKR-STR-001"),
)
class ClosedLock(NumpyRouter):
    def upper_edge(self, base: Array, epsilon: float) -> Array:
        return np.nextafter(super().upper_edge(base, epsilon), np.float32(-math.inf))


@seeded(
    "edges with a tolerance",
    fails=("OKR-ZONE-012", "OKR-TIE-007"),
    passes=(*REST, "OKR-ZONE-002", "OKR-ZONE-004", "OKR-ZONE-005"),
)
class Tolerant(NumpyRouter):
    def lower_edge(self, base: Array, epsilon: float) -> Array:
        edge = super().lower_edge(base, epsilon)
        return np.where(np.isfinite(edge), edge - np.float32(1e-5) * np.abs(edge), edge)

    def upper_edge(self, base: Array, epsilon: float) -> Array:
        edge = super().upper_edge(base, epsilon)
        return np.where(np.isfinite(edge), edge + np.float32(1e-5) * np.abs(edge), edge)


@seeded("edges in bfloat16", fails=("OKR-ZONE-012",), passes=(*REST, "OKR-STR-001", *NATIVE))
class RoughEdges(NumpyRouter):
    def lower_edge(self, base: Array, epsilon: float) -> Array:
        return rounded(super().lower_edge(base, epsilon))

    def upper_edge(self, base: Array, epsilon: float) -> Array:
        return rounded(super().upper_edge(base, epsilon))


@seeded(
    "the zone reported before soundness",
    fails=("OKR-ZONE-013",),
    passes=(*REST, "OKR-SEL", "OKR-TIE", "OKR-STR", "OKR-FAIL"),
)
class ReportsTooMuch(NumpyRouter):
    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Selection:
        setting = {"top_k": top_k, "epsilon": epsilon, "zone": zone, "strength": strength}
        answer = super().select(choice, key_scores, **setting)  # type: ignore[arg-type]
        pool, locked = self.zone(choice, top_k, epsilon, zone)
        return answer._replace(pool=pool, locked=locked)


@seeded(
    "as many competitors as slots counted",
    fails=("OKR-ZONE-013",),
    passes=(*REST, "OKR-ZONE-007", "OKR-SEL", "OKR-TIE", "OKR-STR", "OKR-FAIL"),
)
class CountsTheForced(NumpyRouter):
    def opportunity(self, pool: Array, locked: Array, top_k: int) -> Array:
        free = top_k - locked.sum(axis=1)
        return np.asarray((pool.sum(axis=1) >= free) & (free > 0))


@seeded(
    "the (k+1)-th score read at k = E",
    fails=("OKR-ZONE-008",),
    passes=("OKR-KEY", "OKR-SCORE", "OKR-ZONE-001", "OKR-ZONE-002", "OKR-ZONE-003"),
)
class CrashesAtE(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        if zone == "boundary":
            np.sort(c, axis=1)[:, -top_k - 1]
        return super().zone(c, top_k, epsilon, zone)
