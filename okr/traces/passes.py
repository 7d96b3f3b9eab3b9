"""By which forward passes a model saw a sequence: kept where its rotary scaling changes with the length.

As int32 [runs, 3], runs of passes: how many passes, tokens in each, and the length of the longest sequence that the
first of them saw, which grows with the tokens. A first run of one pass without tokens says that the model had already
scaled itself to that length.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32

from okr.errors import InvalidTrace

MOST = 2**31 - 1


def folded(passes: Iterable[tuple[int, int]]) -> Int32[np.ndarray, "runs 3"]:
    """Passes, each with its tokens and its length, as runs."""
    runs: list[list[int]] = []
    for tokens, length in passes:
        if runs and tokens and runs[-1][1] == tokens and runs[-1][2] + runs[-1][0] * tokens == length:
            runs[-1][0] += 1
        else:
            runs.append([1, tokens, length])
    return np.array(runs, np.int32)


def unfolded(runs: Int32[np.ndarray, "runs 3"]) -> list[tuple[int, int]]:
    """The passes that runs stand for, each with its tokens and its length."""
    return [(tokens, length + number * tokens) for passes, tokens, length in runs.tolist() for number in range(passes)]


def check_passes(runs: Any, tokens: int) -> None:
    """InvalidTrace unless ``runs`` are passes over ``tokens`` tokens."""
    if not isinstance(runs, np.ndarray) or runs.dtype != np.int32 or runs.ndim != 2 or runs.shape[1] != 3:
        raise InvalidTrace("passes must be int32 of shape [runs, 3]")
    passes, each, length = runs.astype(np.int64).T
    seen = (passes * each).cumsum()
    first_seen = seen - passes * each + each
    empty = each == 0
    empty[:1] &= passes[:1] != 1
    if not len(runs) or (runs < 0).any() or (passes < 1).any() or empty.any() or seen[-1] != tokens:
        raise InvalidTrace(f"passes do not cover the {tokens} tokens that were routed, each once")
    if (length < first_seen).any() or (length + passes * each > MOST).any():
        raise InvalidTrace("passes name a length that is shorter than what they saw, or impossible")
