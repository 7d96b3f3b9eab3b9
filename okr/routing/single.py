"""The selection of one token on a CPU, in NumPy: what decoding asks for, at a fifth of the cost.

Torch spends one to five microseconds an operation whatever its size, NumPy well under one; on one token the selection
of :mod:`okr.routing.selection` is nothing but such overhead. The results are the same to the last bit.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

_LARGEST, _TINY = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_NOBODY = np.empty(0, np.int64)


@np.errstate(all="ignore")
def select_one(
    scores: Float32[np.ndarray, " experts"],
    product: Float32[np.ndarray, " experts"],
    hidden: Float32[np.ndarray, " hidden_size"],
    *,
    probabilities: bool,
    **rule: Any,
) -> Int64[np.ndarray, " top_k"] | None:
    """:func:`route_one` from what a router has at hand: the scores that it ranks (``probabilities`` or not), its input,
    and the product of that with the key's projection."""
    norm = math.sqrt(hidden @ hidden)
    return route_one(np.log(scores) if probabilities else scores, product / np.float32(max(norm, _TINY)), **rule)


def route_one(
    choice: Float32[np.ndarray, " experts"],
    key_scores: Float32[np.ndarray, " experts"],
    *,
    top_k: int,
    epsilon: float,
    zone: str,
    strength: float,
) -> Int64[np.ndarray, " top_k"] | None:
    """The experts of one token as :func:`okr.routing.selection.route` selects them; None where it is no opportunity.

    Call it where NumPy's floating-point warnings are off: overflow is expected, and provided for.
    """
    width, best, leaders = np.float32(epsilon), np.maximum.reduce(choice), _NOBODY
    if not (best < math.inf and np.maximum.reduce(np.abs(key_scores)) < math.inf):
        return None
    if zone == "max" or epsilon == math.inf or top_k == len(choice):
        pool = (choice >= max(best - width, -_LARGEST)).nonzero()[0]
        if len(pool) <= top_k:
            return None
    else:
        top = np.partition(choice, len(choice) - top_k - 1)[len(choice) - top_k - 1 :]
        b_out, b_in = top[0], top[1:].min()
        edge, lock = max(b_in - width, -_LARGEST), b_out + width
        if not (b_out >= edge and b_in <= lock):
            return None
        leaders = (choice > lock).nonzero()[0]
        pool = ((choice >= edge) & (choice <= lock)).nonzero()[0]
    rank = key_scores[pool]
    if strength < math.inf:
        rank = choice[pool] + np.float32(min(strength, _LARGEST)) * rank
        rank = np.minimum(np.maximum(rank, -_LARGEST), _LARGEST)
    chosen = pool[(-rank).argsort(kind="stable")[: top_k - len(leaders)]]
    if len(leaders):
        chosen = np.concatenate((leaders, chosen))
    chosen.sort()
    ordered: Int64[np.ndarray, " top_k"] = chosen[(-choice[chosen]).argsort(kind="stable")]
    return ordered
