"""Correct implementations that differ: another order of summation, float64 throughout, plain Python."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import stdlib_vectors
from .numpy_router import NumpyRouter

Array = NDArray[Any]


class ReorderedRouter(NumpyRouter):
    """Sums key scores back to front, one term at a time in float32, and rearranges both zone comparisons."""

    name = "reordered"

    def dot(self, unit: Array, signs: Array) -> Array:
        total = np.zeros((len(unit), signs.shape[1]), np.float32)
        for i in reversed(range(unit.shape[1])):
            total += unit[:, i, None] * signs[i]
        return total

    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        """max(c) - c_e <= epsilon in place of c_e >= max(c) - epsilon, and likewise for the lock."""
        candidate, step = c > -np.inf, np.float32(epsilon)
        if zone == "max":
            return candidate & (c.max(axis=1, keepdims=True) - c <= step), np.zeros_like(candidate)
        ranked = np.concatenate([-np.sort(-c, axis=1), np.full((len(c), 1), -np.inf, c.dtype)], axis=1)
        locked = candidate & (c - ranked[:, top_k, None] > step)
        return candidate & (ranked[:, top_k - 1, None] - c <= step) & ~locked, locked


class Float64Router(NumpyRouter):
    """Everything in float64."""

    name = "float64"
    real: Any = np.float64


class OtherwiseNativeRouter(NumpyRouter):
    """Takes the first k experts where choice scores are not sound, and the text leaves it to the family."""

    name = "otherwise native"

    def native(self, c: Array, top_k: int) -> Array:
        sound = (c < np.inf).all(axis=1) & ((c > -np.inf).sum(axis=1) >= top_k)
        return np.where(sound[:, None], super().native(c, top_k), np.arange(top_k))


class StdlibRouter:
    """The standard-library consumer of the vectors, asked live. Made for sound questions: settings are not checked."""

    name = "stdlib"

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        signs = ["".join("+" if sign > 0 else "-" for sign in row) for row in projection.tolist()]
        scores = stdlib_vectors.key_scores(hidden.tolist(), signs)
        return np.array(scores).reshape(len(hidden), projection.shape[1])

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Array:
        rows = zip(choice.tolist(), key_scores.tolist(), strict=True)
        taken = [stdlib_vectors.select_token(c, g, top_k, epsilon, zone, strength) for c, g in rows]
        return np.array(taken, np.int64).reshape(len(choice), top_k)


reordered = ReorderedRouter()
float64 = Float64Router()
otherwise_native = OtherwiseNativeRouter()
stdlib = StdlibRouter()
