"""Bugs of the key scores."""

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter
from ..strategies import bfloat16
from . import seeded

REST = ("OKR-KEY", "OKR-ZONE", "OKR-STR", "OKR-SEL", "OKR-TIE", "OKR-FAIL")


@seeded(
    "no normalisation",
    fails=("OKR-SCORE-001", "OKR-SCORE-003"),
    passes=("OKR-SCORE-002", "OKR-SCORE-006", "OKR-SCORE-008", *REST),
)
class NotNormalised(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        return self.dot(hidden, projection.astype(np.float32))


@seeded(
    "divided by sqrt(d)",
    fails=("OKR-SCORE-001", "OKR-SCORE-003"),
    passes=("OKR-SCORE-002", "OKR-SCORE-006", "OKR-SCORE-008", *REST),
)
class RootOfSize(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        return self.dot(hidden, projection.astype(np.float32)) / np.float32(np.sqrt(hidden.shape[1]))


@seeded(
    "sum of absolute values as the norm",
    fails=("OKR-SCORE-001", "OKR-SCORE-003"),
    passes=("OKR-SCORE-002", "OKR-SCORE-006", *REST),
)
class OtherNorm(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        norm = np.abs(hidden).sum(axis=1, keepdims=True)
        return self.dot(hidden / np.where(norm > 0, norm, 1), projection.astype(np.float32))


@seeded(
    "h = 0 divides by zero",
    fails=("OKR-SCORE-002",),
    passes=(
        "OKR-SCORE-001",
        "OKR-SCORE-003",
        "OKR-SCORE-004",
        "OKR-SCORE-005",
        "OKR-SCORE-006",
        "OKR-SCORE-007",
        "OKR-SCORE-008",
        *REST,
    ),
)
class ZeroByZero(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        norm = np.linalg.norm(hidden.astype(np.float64), axis=1, keepdims=True)
        return self.dot((hidden / norm).astype(np.float32), projection.astype(np.float32))


@seeded(
    "a constant added to the norm",
    fails=("OKR-SCORE-003",),
    passes=(
        "OKR-SCORE-002",
        "OKR-SCORE-004",
        "OKR-SCORE-005",
        "OKR-SCORE-006",
        "OKR-SCORE-007",
        "OKR-SCORE-008",
        *REST,
    ),
)
class PaddedNorm(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        norm = np.linalg.norm(hidden.astype(np.float64), axis=1, keepdims=True) + 1e-6
        return self.dot((hidden / norm).astype(np.float32), projection.astype(np.float32))


@seeded(
    "states rounded to bfloat16 once more",
    fails=("OKR-SCORE-001", "OKR-SCORE-004"),
    passes=("OKR-SCORE-002", "OKR-SCORE-006", "OKR-SCORE-008", *REST),
)
class RoundedStates(NumpyRouter):
    def dot(self, unit: Array, signs: Array) -> Array:
        finite = np.isfinite(unit).all(axis=1, keepdims=True)
        return np.where(finite, bfloat16(np.where(finite, unit, 0)) @ signs, np.nan).astype(np.float32)


@seeded(
    "accumulated in float16",
    fails=("OKR-SCORE-001", "OKR-SCORE-004"),
    passes=("OKR-SCORE-002", "OKR-SCORE-006", "OKR-SCORE-008", *REST),
)
class HalfSums(NumpyRouter):
    def dot(self, unit: Array, signs: Array) -> Array:
        total = np.zeros((len(unit), signs.shape[1]), np.float16)
        for i in range(unit.shape[1]):
            total += unit[:, i, None].astype(np.float16) * signs[i].astype(np.float16)
        return total.astype(np.float32)


@seeded(
    "normalised by the norm of the batch", fails=("OKR-SCORE-005",), passes=("OKR-SCORE-002", "OKR-SCORE-008", *REST)
)
class BatchNorm(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        norm = np.linalg.norm(hidden.astype(np.float64))
        return self.dot((hidden / (norm if norm > 0 else 1)).astype(np.float32), projection.astype(np.float32))


@seeded(
    "the last chunk of a long batch read from where it still fits",
    fails=("OKR-SCORE-005",),
    passes=("OKR-SCORE-001", "OKR-SCORE-002", "OKR-SCORE-006", "OKR-SCORE-008", *REST),
)
class LastChunkOfStates(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        last = max(0, len(hidden) - 128)
        starts = [min(start, last) for start in range(0, max(len(hidden), 1), 128)]
        chunks = [super(LastChunkOfStates, self).key_scores(hidden[s : s + 128], projection) for s in starts]
        return np.concatenate(chunks)[: len(hidden)]


@seeded(
    "NaN replaced by 0",
    fails=("OKR-SCORE-006",),
    passes=(
        "OKR-SCORE-001",
        "OKR-SCORE-002",
        "OKR-SCORE-003",
        "OKR-SCORE-004",
        "OKR-SCORE-005",
        "OKR-SCORE-007",
        "OKR-SCORE-008",
        *REST,
    ),
)
class NoNan(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        return np.nan_to_num(super().key_scores(hidden, projection))


@seeded(
    "centred over the experts",
    fails=("OKR-SCORE-001", "OKR-SCORE-007"),
    passes=("OKR-SCORE-002", "OKR-SCORE-006", "OKR-SCORE-008", *REST),
)
class Centred(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        scores = super().key_scores(hidden, projection)
        return np.asarray(scores - scores.mean(axis=1, keepdims=True))


@seeded("scores returned as float16", fails=("OKR-SCORE-001", "OKR-SCORE-008"), passes=REST)
class HalfScores(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        return super().key_scores(hidden, projection).astype(np.float16)


@seeded("scores transposed", fails=("OKR-SCORE-001",), passes=REST)
class Transposed(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        return super().key_scores(hidden, projection).T


@seeded("writes the normalised state back", fails=("OKR-SCORE-001",), passes=REST)
class NormalisesInPlace(NumpyRouter):
    def key_scores(self, hidden: Array, projection: Array) -> Array:
        hidden /= np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-30)
        return self.dot(hidden, projection.astype(np.float32))
