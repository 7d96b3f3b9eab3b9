"""The selection of tokens in memory, compiled by numba. Every router on a CPU uses it.

It makes the selection of :mod:`okr.routing.selection` token by token, as the clauses state it. Each operation of torch
or NumPy costs microseconds whatever its size, and ranks whole rows although a few experts are wanted. Compiled, a
whole token costs less than one such operation.
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
    """``function`` as machine code, made at its first call and kept beside this file or in the user's cache folder."""
    try:
        return numba.njit(function, cache=True, nogil=True)  # type: ignore[no-any-return]
    except RuntimeError:  # neither can be written: every process compiles for itself
        return numba.njit(function, nogil=True)  # type: ignore[no-any-return]


def in_memory(scores: Tensor) -> bool:
    """Whether these are float32 numbers in this process's memory, so that NumPy can read them without waiting for a
    device."""
    return (
        scores.is_cpu and scores.dtype == torch.float32 and type(scores) is Tensor and not torch.compiler.is_compiling()
    )


class Selector:
    """Selects the experts of one site for tokens in memory, as :func:`okr.routing.selection.route` does.

    A preference beyond float32 may rank anywhere in the pool (OKR-STR-005).
    """

    def __init__(self, *, top_k: int, epsilon: float, zone: str, strength: float) -> None:
        self.top_k = top_k
        self.strength = np.float32(min(strength, float(_LARGEST)))
        width = np.float32(epsilon) if epsilon <= _LARGEST else _INFINITE
        self.rule = (width, zone == "boundary", strength == math.inf)

    @property
    def alone(self) -> bool:
        """Whether the key alone decides, so that the scale of the key scores does not matter."""
        return self.rule[2]

    def __call__(
        self,
        choice: Float32[np.ndarray, "tokens experts"],
        key_scores: Float32[np.ndarray, "tokens experts"],
        norms: Float32[np.ndarray, " tokens"] | None = None,
    ) -> tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"], bool]:
        """The experts of every token int64 [T, k], which tokens are opportunities bool [T], and whether all are.

        The experts of a token that is no opportunity mean nothing: the model's own choice runs there. ``norms`` are
        positive numbers by which the key scores are still to be divided; None means that they already are.
        """
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
        """The experts int64 [1, k] of a single token from what its router sees, or None if it is no opportunity.

        ``signs`` is the key's projection. With ``log`` the choice scores are the logarithms of ``scores``.
        """
        experts = np.empty((1, self.top_k), np.int64)
        return experts if _select_one(scores, state, signs, log, self.strength, self.rule, experts) else None


@machine_code
def _select(choice, keys, norms, strength, rule, experts, opportunity):  # type: ignore[no-untyped-def]
    """Fill ``experts`` [T, k] and ``opportunity`` [T] and return the number of opportunities. ``norms`` has one number
    for all tokens, or T."""
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
    """Fill ``experts`` [1, k] if the token is an opportunity, and return whether it is."""
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
    """Fill ``chosen`` [k] if the token is an opportunity, and return whether it is. ``top`` [k + 1] and ``rank`` [k]
    are working memory."""
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
    """Fill ``chosen`` with the locked experts and the pool's best by preference, ties to the lower index. ``rank`` is
    working memory for their preferences. At least as many experts as ``chosen`` holds must be at or above ``edge``."""
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
    """Sort ``chosen`` by descending choice score, ties to the lower index."""
    for last in range(1, len(chosen)):
        expert, place = chosen[last], last
        while place > 0:
            other = chosen[place - 1]
            if scores[other] > scores[expert] or (scores[other] == scores[expert] and other < expert):
                break
            chosen[place] = other
            place -= 1
        chosen[place] = expert
