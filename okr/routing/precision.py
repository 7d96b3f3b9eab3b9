"""Autocast makes matrix products in 16 bits. These functions see it and keep it out of routing (OKR-SCORE-004)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def lowered(tensor: Tensor) -> torch.dtype | None:
    """The dtype in which autocast would now multiply ``tensor``, or None if autocast is off for its device."""
    kind = "cpu" if tensor.is_cpu else tensor.device.type  # the name of a device costs more than the rest
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def autocast(kind: str, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """A block in which devices of this kind ("cpu", "cuda", ...) multiply in ``dtype``. With None they multiply in the
    dtype of the numbers, whatever autocast surrounds the block.

    The block keeps no lowered weights. torch's cache of them knows neither their dtype nor whether gradients were
    wanted, and an autocast around the block would use them.
    """
    if kind == "meta":
        return nullcontext()
    return torch.autocast(kind, dtype=dtype, enabled=dtype is not None, cache_enabled=False)
