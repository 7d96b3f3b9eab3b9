"""The selection of many tokens on a CPU, in NumPy: what prefill, replay and detection ask for.

The same selection as :mod:`okr.routing.selection`. NumPy sorts short rows of plain numbers many times faster than torch
ranks them, so a score and its expert's index are packed into one integer: sorted, it answers which and in what order.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

_LARGEST = np.finfo(np.float32).max
_INDEX_BITS = 16
BLOCK = 512
"""Tokens at once: as many as a processor's cache holds, states and all."""


def in_memory(scores: Tensor) -> bool:
    """Whether these are float32 numbers in this process's memory, which NumPy can read with no device to wait for."""
    return (
        scores.is_cpu and scores.dtype == torch.float32 and type(scores) is Tensor and not torch.compiler.is_compiling()
    )


def route_rows(
    choice: Float32[np.ndarray, "tokens experts"],
    key_scores: Float32[np.ndarray, "tokens experts"],
    *,
    top_k: int,
    epsilon: float,
    zone: str,
    strength: float | Float32[np.ndarray, "tokens 1"],
) -> tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"]]:
    """The experts of every token as :func:`okr.routing.selection.route` selects them, and which are opportunities; at
    the others, where the model's own choice runs, the experts say nothing.

    The key scores of a token must be finite, or none of them. At infinite strength their scale does not matter; at a
    finite one ``strength`` may carry the scale of each token instead. Sums beyond float32 rank anywhere in the pool
    (OKR-STR-005). Works block by block.
    """
    indices, contested = np.zeros((len(choice), top_k), np.int64), np.zeros(len(choice), bool)
    if top_k < choice.shape[1]:
        for first in range(0, len(choice), BLOCK):
            rows = slice(first, first + BLOCK)
            own = strength[rows] if isinstance(strength, np.ndarray) else strength
            indices[rows], contested[rows] = _block(choice[rows], key_scores[rows], top_k, epsilon, zone, own)
    return indices, contested


def _block(
    choice: Float32[np.ndarray, "tokens experts"],
    key_scores: Float32[np.ndarray, "tokens experts"],
    top_k: int,
    epsilon: float,
    zone: str,
    strength: float | Float32[np.ndarray, "tokens 1"],
) -> tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"]]:
    """What the key chooses for every token, and where that counts."""
    experts, lock = choice.shape[1], None
    with np.errstate(over="ignore", invalid="ignore"):
        ordered, width = np.sort(choice, 1), np.float32(epsilon)  # NaN comes last
        best, b_in, b_out = ordered[:, -1:], ordered[:, -top_k, None], ordered[:, -top_k - 1, None]
        if zone == "max" or width == np.inf:
            edge = np.maximum(best - width, -_LARGEST)
        else:
            edge, lock = np.maximum(b_in - width, -_LARGEST), b_out + width
        contested = (b_out >= edge) & (best < np.inf) & np.isfinite(key_scores[:, :1])
        if isinstance(strength, np.ndarray) or strength < np.inf:
            key_scores = np.clip(choice + np.minimum(strength, _LARGEST) * key_scores, -_LARGEST, _LARGEST)
    rank = np.where(choice >= edge, key_scores, np.float32(-np.inf))
    if lock is not None:
        contested &= b_in <= lock
        rank = np.where(choice > lock, np.float32(np.inf), rank)
    packed = _packed(rank, np.arange(experts))
    packed.partition(experts - top_k, axis=1)
    chosen = _unpacked(packed[:, experts - top_k :])
    if top_k > 1:
        scores = choice.ravel().take(chosen + np.arange(0, choice.size, experts)[:, None])
        packed = _packed(scores, chosen)
        packed.sort(1)
        chosen = _unpacked(packed[:, ::-1])
    return chosen, contested[:, 0]


def _packed(
    scores: Float32[np.ndarray, "tokens count"], experts: Int64[np.ndarray, "*tokens count"]
) -> Int64[np.ndarray, "tokens count"]:
    """Integers in the order of the scores, equals (and 0 and -0) in descending order of the expert, which they hold."""
    bits = (scores + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF  # negative floats descend as integers
    return (bits.astype(np.int64) << _INDEX_BITS) | (~experts & ((1 << _INDEX_BITS) - 1))


def _unpacked(packed: Int64[np.ndarray, "tokens count"]) -> Int64[np.ndarray, "tokens count"]:
    """The experts that the integers hold."""
    return ~packed & ((1 << _INDEX_BITS) - 1)
