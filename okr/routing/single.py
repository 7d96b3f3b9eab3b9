"""The selection of one token on a CPU, in NumPy and plain numbers: what decoding asks for, at a fraction of the cost.

Torch spends microseconds an operation whatever its size; on one token the selection of :mod:`okr.routing.selection` is
nothing but such overhead. This is the same selection from experts sorted by choice score: leaders, pool and the others
then follow each other, and the zone is two places in that order.
"""

import math
from bisect import bisect_left, bisect_right
from operator import neg

import numpy as np
from jaxtyping import Float32, Int64

_LARGEST = float(np.finfo(np.float32).max)


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

    The key scores must be finite, or none of them. At infinite strength their scale does not matter; at a finite one
    ``strength`` may carry the scale instead. Sums beyond float32 rank anywhere in the pool (OKR-STR-005).
    """
    order = (-choice).argsort(kind="stable")
    scores = choice[order].tolist()
    if top_k == len(scores) or not (scores[0] < math.inf and scores[-1] < math.inf and math.isfinite(key_scores[0])):
        return None  # NaN comes last
    start, leaders, width = scores[0], 0, _rounded(epsilon) if epsilon <= _LARGEST else math.inf
    if zone == "boundary" and width < math.inf:
        start = scores[top_k - 1]
        leaders = bisect_left(scores, -_rounded(scores[top_k] + width), key=neg)
    members = bisect_right(scores, -_rounded(start - width), key=neg)
    if not leaders < top_k < members:
        return None
    pool = order[leaders:members].copy()
    pool.sort()  # equal preferences go to the lower index
    rank = key_scores[pool]
    if strength < math.inf:
        rank = choice[pool] + np.float32(min(strength, _LARGEST)) * rank
    won = pool[(-rank).argsort(kind="stable")[: top_k - leaders]]
    won.sort()
    won = won[(-choice[won]).argsort(kind="stable")]
    return np.concatenate((order[:leaders], won)) if leaders else won


def _rounded(value: float) -> float:
    """``value`` as float32, kept finite: an edge of -inf would let barred experts in."""
    return float(np.float32(min(max(value, -_LARGEST), _LARGEST)))
