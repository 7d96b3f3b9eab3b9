"""Stores the forward passes in which a model saw a sequence. They matter only if the model's rotary scaling changes
with the length.

Passes are stored as int32 [runs, 3]. A run is several passes with equally many tokens each. Its three numbers are how
many passes, how many tokens in each, and the length of the longest sequence that the first of them saw; that length
grows by the tokens of each pass. For example, [[1, 5, 5], [3, 1, 6]] is one pass of five tokens and then three passes
of one token. If the first run is one pass without tokens, the model was already scaled to that length.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32

from okr.errors import InvalidTrace

MOST = 2**31 - 1


def folded(passes: Iterable[tuple[int, int]]) -> Int32[np.ndarray, "runs 3"]:
    """The runs that store ``passes``, each given as its number of tokens and its length."""
    runs: list[list[int]] = []
    for tokens, length in passes:
        if runs and tokens and runs[-1][1] == tokens and runs[-1][2] + runs[-1][0] * tokens == length:
            runs[-1][0] += 1
        else:
            runs.append([1, tokens, length])
    return np.array(runs, np.int32)


def unfolded(runs: Int32[np.ndarray, "runs 3"]) -> list[tuple[int, int]]:
    """The passes that ``runs`` store, each as its number of tokens and its length."""
    return [(tokens, length + number * tokens) for passes, tokens, length in runs.tolist() for number in range(passes)]


def check_passes(runs: Any, tokens: int) -> None:
    """Raise InvalidTrace unless ``runs`` are int32 [runs, 3] and store passes that cover ``tokens`` tokens."""
    if not isinstance(runs, np.ndarray) or runs.dtype != np.int32 or runs.ndim != 2 or runs.shape[1] != 3:
        raise InvalidTrace("passes must be int32 of shape [runs, 3]")
    passes, each, length = runs.astype(np.int64).T
    seen = (passes * each).cumsum()
    first_seen = seen - passes * each + each
    empty = each == 0
    empty[:1] &= passes[:1] != 1
    if not len(runs) or (runs < 0).any() or (passes < 1).any() or empty.any() or seen[-1] != tokens:
        raise InvalidTrace(f"passes must cover each of the {tokens} routed tokens once")
    if (length < first_seen).any() or (length + passes * each > MOST).any():
        raise InvalidTrace("passes name a length that is less than the tokens seen, or too large")
