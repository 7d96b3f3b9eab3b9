"""The selection of tokens in memory, compiled by numba: what every router on a CPU asks for.

The selection of :mod:`okr.routing.selection`, token by token, as the clauses put it. Torch's and NumPy's operations
cost microseconds each whatever their size, and rank whole rows where a few experts are wanted; compiled, a token costs
less than one such operation.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int8, Int64
from torch import Tensor

_INFINITE = np.float32(np.inf)
_LARGEST = np.finfo(np.float32).max
_LEAST = np.finfo(np.float32).min
_TINY = np.finfo(np.float32).tiny
_ONE = np.ones(1, np.float32)

Function = TypeVar("Function", bound=Callable[..., Any])


def machine_code(function: Function) -> Function:
    """``function`` as machine code, made at its first call and kept beside this file, or in the user's cache folder."""
    try:
        return numba.njit(function, cache=True, nogil=True)  # type: ignore[no-any-return]
    except RuntimeError:  # neither can be written: every process compiles for itself
        return numba.njit(function, nogil=True)  # type: ignore[no-any-return]


def in_memory(scores: Tensor) -> bool:
    """Whether these are float32 numbers in this process's memory, which NumPy can read with no device to wait for."""
    return (
        scores.is_cpu and scores.dtype == torch.float32 and type(scores) is Tensor and not torch.compiler.is_compiling()
    )


class Selector:
    """How one site selects experts of tokens in memory, as :func:`okr.routing.selection.route` does.

    Sums beyond float32 rank anywhere in the pool (OKR-STR-005).
    """

    def __init__(self, *, top_k: int, epsilon: float, zone: str, strength: float) -> None:
        self.top_k = top_k
        self.strength = np.float32(min(strength, float(_LARGEST)))
        width = np.float32(epsilon) if epsilon <= _LARGEST else _INFINITE
        self.rule = (width, zone == "boundary", strength == math.inf)

    @property
    def alone(self) -> bool:
        """Whether the key alone decides, so that the scale of key scores does not matter."""
        return self.rule[2]

    def __call__(
        self,
        choice: Float32[np.ndarray, "tokens experts"],
        key_scores: Float32[np.ndarray, "tokens experts"],
        norms: Float32[np.ndarray, " tokens"] | None = None,
    ) -> tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"], bool]:
        """The experts of every token, which tokens are opportunities, and whether all are; where a token is none, and
        the model's own choice runs, the experts say nothing. ``norms``: the key scores are still to be divided by
        these, positive."""
        experts = np.empty((len(choice), self.top_k), np.int64)
        opportunity = np.empty(len(choice), np.bool_)
        count = _select(
            choice, key_scores, _ONE if norms is None else norms, self.strength, self.rule, experts, opportunity
        )
        return experts, opportunity, count == len(choice)

    def one(
        self,
        scores: Float32[np.ndarray, "1 experts"],
        state: Float32[np.ndarray, "1 hidden_size"],
        signs: Int8[np.ndarray, "hidden_size experts"],
        log: bool,
    ) -> Int64[np.ndarray, "1 top_k"] | None:
        """The experts of a single token from what its router sees; None where it is no opportunity. ``signs``: the
        key's projection. ``log``: the choice scores are the logarithms of ``scores``."""
        experts = np.empty((1, self.top_k), np.int64)
        return experts if _select_one(scores, state, signs, log, self.strength, self.rule, experts) else None


@machine_code
def _select(choice, keys, norms, strength, rule, experts, opportunity):  # type: ignore[no-untyped-def]
    """Fill ``experts`` [T, k] and ``opportunity`` [T]; the number of opportunities. ``norms``: one for all, or [T]."""
    top_k, count, step = experts.shape[1], 0, 1 if len(norms) > 1 else 0
    top, rank = np.empty(top_k + 1, np.float32), np.empty(top_k, np.float32)
    for token in range(len(choice)):
        own = min(strength / norms[token * step], _LARGEST)
        found = _token(choice[token], keys[token], own, rule, experts[token], top, rank)
        opportunity[token] = found
        count += found
    return count


@machine_code
def _select_one(scores, state, signs, log, strength, rule, experts):  # type: ignore[no-untyped-def]
    """Fill ``experts`` [1, k] where the token is an opportunity; whether it is."""
    top_k, choice, key = experts.shape[1], scores[0], np.zeros(scores.shape[1], np.float32)
    top, rank = np.empty(top_k + 1, np.float32), np.empty(top_k, np.float32)
    if log:
        choice = np.log(choice)
    squares = np.float32(0)
    for row in range(len(signs)):
        value = state[0, row]
        squares += value * value
        for expert in range(len(key)):
            key[expert] += value * np.float32(signs[row, expert])
    own = min(strength / max(np.sqrt(squares), _TINY), _LARGEST)
    return _token(choice, key, own, rule, experts[0], top, rank)


@machine_code
def _token(scores, key, strength, rule, chosen, top, rank):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` [k] where the token is an opportunity; whether it is. ``top`` [k + 1] and ``rank`` [k] are room
    to work in."""
    width, boundary, alone = rule
    best, sound = scores[0], len(chosen) < len(scores)
    for expert in range(len(scores)):
        sound &= scores[expert] < _INFINITE and abs(key[expert]) < _INFINITE  # not so for NaN
        best = max(best, scores[expert])
    if not sound:
        return False
    start, lock = best, _INFINITE
    if boundary and width < _INFINITE:
        _largest(scores, top)
        start, lock = top[-2], top[-1] + width
    edge = max(start - width, _LEAST)  # an edge of -inf would let barred experts in
    members = leaders = 0
    for score in scores:
        members += score >= edge
        leaders += score > lock
    if not leaders < len(chosen) < members:
        return False
    _fill(scores, key, strength, alone, edge, lock, chosen, rank)
    _by_choice(scores, chosen)
    return True


@machine_code
def _largest(scores, top):  # type: ignore[no-untyped-def]
    """Fill ``top`` with the largest scores in descending order, duplicates counted."""
    top[:] = -_INFINITE
    for score in scores:
        if score > top[-1]:
            place = len(top) - 1
            while place > 0 and top[place - 1] < score:
                top[place] = top[place - 1]
                place -= 1
            top[place] = score


@machine_code
def _fill(scores, key, strength, alone, edge, lock, chosen, rank):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` with the leaders and the pool's best by preference, equals in ascending order of expert; ``rank``
    is room for their preferences. At least as many experts must be at or above ``edge``."""
    held = 0
    for expert in range(len(scores)):
        score = scores[expert]
        if score < edge:
            continue
        if score > lock:
            preference = _INFINITE
        elif alone:
            preference = key[expert]
        else:
            preference = min(max(score + strength * key[expert], _LEAST), _LARGEST)
        if held == len(chosen):
            if not preference > rank[held - 1]:
                continue
            place = held - 1
        else:
            place = held
            held += 1
        while place > 0 and rank[place - 1] < preference:
            rank[place], chosen[place] = rank[place - 1], chosen[place - 1]
            place -= 1
        rank[place], chosen[place] = preference, expert


@machine_code
def _by_choice(scores, chosen):  # type: ignore[no-untyped-def]
    """Sort ``chosen`` by descending choice score, equals in ascending order of expert."""
    for last in range(1, len(chosen)):
        expert, place = chosen[last], last
        while place > 0:
            other = chosen[place - 1]
            if scores[other] > scores[expert] or (scores[other] == scores[expert] and other < expert):
                break
            chosen[place] = other
            place -= 1
        chosen[place] = expert
