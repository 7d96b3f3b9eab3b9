"""Bugs of the selection itself."""

import math
from typing import Any

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter, Selection
from . import seeded

REST = ("OKR-KEY", "OKR-SCORE", "OKR-ZONE-001")


class _Around(NumpyRouter):
    """Changes what goes into or comes out of ``select``."""

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Selection:
        self.given = (choice, key_scores)
        answer = super().select(choice, key_scores, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength)
        return self.after(answer)

    def after(self, answer: Selection) -> Selection:
        return answer


@seeded(
    "experts in ascending order of index",
    fails=("OKR-SEL-001", "OKR-SEL-004"),
    passes=(*REST, "OKR-SEL-003", "OKR-SEL-012", "OKR-ZONE-002", "OKR-ZONE-005"),
)
class Ascending(_Around):
    def after(self, answer: Selection) -> Selection:
        return answer._replace(indices=np.sort(answer.indices, axis=1))


@seeded(
    "ordered by key score",
    fails=("OKR-SEL-004",),
    passes=(*REST, "OKR-SEL-001", "OKR-SEL-003", "OKR-SEL-012", "OKR-STR-001"),
)
class ByKey(_Around):
    def after(self, answer: Selection) -> Selection:
        keys = np.take_along_axis(self.given[1], answer.indices, axis=1)
        order = np.argsort(-keys, axis=1, kind="stable")
        keyed = np.take_along_axis(answer.indices, order, axis=1)
        return answer._replace(indices=np.where(answer.opportunity[:, None], keyed, answer.indices))


@seeded(
    "the last slot filled with the first expert", fails=("OKR-SEL-003",), passes=(*REST, "OKR-SEL-010", "OKR-SEL-012")
)
class Doubles(_Around):
    def after(self, answer: Selection) -> Selection:
        indices = answer.indices.copy()
        indices[:, -1] = indices[:, 0]
        return answer._replace(indices=indices)


@seeded("experts counted from 1", fails=("OKR-SEL-003", "OKR-SEL-001", "OKR-SEL-002"), passes=(*REST, "OKR-SEL-012"))
class FromOne(_Around):
    def after(self, answer: Selection) -> Selection:
        return answer._replace(indices=answer.indices + 1)


@seeded("one expert too many", fails=("OKR-SEL-003", "OKR-SEL-012"), passes=REST)
class TooMany(_Around):
    def after(self, answer: Selection) -> Selection:
        return answer._replace(indices=np.concatenate([answer.indices, answer.indices[:, :1]], axis=1))


@seeded("indices returned as floats", fails=("OKR-SEL-003",), passes=REST)
class Floats(_Around):
    def after(self, answer: Selection) -> Selection:
        return answer._replace(indices=answer.indices.astype(np.float32))


@seeded("the edge taken over the whole batch", fails=("OKR-SEL-005",), passes=(*REST, "OKR-ZONE-004", "OKR-SEL-012"))
class BatchEdge(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        if zone == "max" and len(c) > 1:
            together = np.where(np.isnan(c), -math.inf, c).max()
            return (c > -math.inf) & (c >= self.lower_edge(together, epsilon)), np.zeros(c.shape, bool)
        return super().zone(c, top_k, epsilon, zone)


@seeded(
    "the last chunk of a long batch read from where it still fits",
    fails=("OKR-SEL-005", "OKR-FAIL-006"),
    passes=(*REST, "OKR-SEL-002", "OKR-SEL-011", "OKR-SEL-012"),
)
class LastChunk(NumpyRouter):
    def select(self, choice: Array, key_scores: Array, **setting: Any) -> Selection:
        last = max(0, len(choice) - 128)
        starts = (min(start, last) for start in range(0, max(len(choice), 1), 128))
        given = ((choice[start : start + 128], key_scores[start : start + 128]) for start in starts)
        answers = zip(*(super(LastChunk, self).select(*chunk, **setting) for chunk in given), strict=True)
        return Selection(*(np.concatenate(parts)[: len(choice)] for parts in answers))


@seeded(
    "epsilon as a fraction of the score",
    fails=("OKR-SEL-006", "OKR-ZONE-002"),
    passes=(*REST, "OKR-SEL-012", "OKR-SEL-003", "OKR-TIE-001"),
)
class Relative(NumpyRouter):
    def lower_edge(self, base: Array, epsilon: float) -> Array:
        return base if epsilon == 0 else base - np.abs(base) * np.float32(epsilon)


@seeded(
    "even experts favoured",
    fails=("OKR-SEL-007", "OKR-SEL-002"),
    passes=(*REST, "OKR-SEL-001", "OKR-SEL-003", "OKR-SEL-004", "OKR-ZONE-008"),
)
class FavoursEven(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return super().preference(c, g + np.float32(0.5) * (np.arange(c.shape[1]) % 2 == 0), strength)


@seeded("a zone of two at least", fails=("OKR-SEL-008",), passes=(*REST, "OKR-ZONE-009", "OKR-SEL-003", "OKR-SEL-012"))
class MinimumZone(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        pool, locked = super().zone(c, top_k, epsilon, zone)
        if top_k < c.shape[1]:
            order = self.argsort(-c)[:, top_k - 1 : top_k + 1]
            edge = np.zeros_like(pool)
            np.put_along_axis(edge, order, True, axis=1)
            edge &= c > -math.inf
            return pool | edge, locked & ~edge
        return pool, locked


@seeded(
    "epsilon applied twice",
    fails=("OKR-SEL-009", "OKR-ZONE-002", "OKR-ZONE-005"),
    passes=(*REST, "OKR-ZONE-009", "OKR-SEL-008"),
)
class TwiceEpsilon(NumpyRouter):
    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        return super().zone(c, top_k, 2 * epsilon, zone)


@seeded("masks the scores in place", fails=("OKR-SEL-011", "OKR-SEL-002"), passes=("OKR-KEY", "OKR-SCORE"))
class MasksInPlace(_Around):
    def after(self, answer: Selection) -> Selection:
        np.put_along_axis(self.given[0], answer.indices, np.float32(-1), axis=1)
        return answer


@seeded(
    "every second call without the key",
    fails=("OKR-SEL-011",),
    passes=(*REST, "OKR-SEL-001", "OKR-SEL-003", "OKR-FAIL-004"),
)
class EverySecond(NumpyRouter):
    calls = 0

    def preference(self, c: Array, g: Array, strength: float) -> Array:
        self.calls += 1
        return super().preference(c, g if self.calls % 2 else -g, strength)


@seeded(
    "a maximum over no tokens", fails=("OKR-SEL-012",), passes=(*REST, "OKR-SEL-002", "OKR-ZONE", "OKR-TIE", "OKR-STR")
)
class NoEmptyBatch(_Around):
    def after(self, answer: Selection) -> Selection:
        self.given[0].max()
        return answer


@seeded(
    "only key scores above 1 count",
    fails=("OKR-SEL-013", "OKR-SEL-002"),
    passes=(*REST, "OKR-SEL-001", "OKR-SEL-003", "OKR-SEL-004"),
)
class Threshold(NumpyRouter):
    def preference(self, c: Array, g: Array, strength: float) -> Array:
        return super().preference(c, np.where(g > 1, g, 0), strength)


@seeded(
    "absent experts ranked at 0", fails=("OKR-SEL-002",), passes=(*REST, "OKR-SEL-001", "OKR-SEL-003", "OKR-SEL-004")
)
class AbsentAtZero(NumpyRouter):
    def members(self, preference: Array, pool: Array, locked: Array, top_k: int) -> Array:
        rank = np.where(locked, math.inf, np.where(pool, preference, 0))
        members = np.zeros_like(pool)
        np.put_along_axis(members, self.argsort(-rank)[:, :top_k], True, axis=1)
        return members


@seeded(
    "the key ignored",
    fails=("OKR-SEL-002", "OKR-STR-001", "OKR-SEL-010", "OKR-ZONE-007"),
    passes=(*REST, "OKR-SEL-001", "OKR-SEL-003", "OKR-FAIL-005"),
)
class NoKey(_Around):
    def after(self, answer: Selection) -> Selection:
        native = np.argsort(-np.nan_to_num(self.given[0], nan=-1e38), axis=1, kind="stable")
        return answer._replace(indices=native[:, : answer.indices.shape[1]])
