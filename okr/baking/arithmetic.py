"""Adds a key to the weight of a gate, and takes it out (spec chapter BAKE).

A gate gives its experts the logits h . W^T. With W + (strength / norm) P^T in place of W, for a key's projection P, it
gives h . W^T + strength (||h|| / norm) g, where g is the key score. That is the score that keyed routing ranks, at a
strength which follows ||h|| from token to token.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from okr.errors import InvalidSetting

GATE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes of gates that a key can be added to, by their names in safetensors."""


def step(strength: float, norm: float) -> float:
    """By how much every entry of a gate changes: strength / norm, rounded to float32 (OKR-BAKE-001). Raises
    InvalidSetting unless all three are finite numbers above 0."""
    for name, number in (("strength", strength), ("norm", norm)):
        if not 0 < number < math.inf:
            raise InvalidSetting(f"{name} must be a number above 0, got {number}: a hard zone cannot be baked")
    with np.errstate(over="ignore"):
        size = float(np.float32(strength / norm))
    if not 0 < size < math.inf:
        raise InvalidSetting(f"strength {strength:g} over a mean norm of {norm:g} is no number of float32 above 0")
    return size


def with_key(
    weight: Float[Tensor, "experts hidden_size"], signs: Int8[Tensor, "hidden_size experts"], size: float
) -> Float[Tensor, "experts hidden_size"]:
    """``weight`` + ``size`` * ``signs``^T, added in float32 and rounded once to the dtype of ``weight``
    (OKR-BAKE-001). Raises InvalidSetting for a weight of another dtype than gates have, or that is not finite
    (OKR-BAKE-002)."""
    if weight.dtype not in GATE_DTYPES.values() or not weight.isfinite().all():
        raise InvalidSetting(f"a gate in {weight.dtype}, or one with NaN or infinity in it, cannot be baked")
    return (weight.float() + size * signs.t().float()).to(weight.dtype)


def without_key(
    weight: Float[Tensor, "experts hidden_size"], signs: Int8[Tensor, "hidden_size experts"], size: float
) -> Float[Tensor, "experts hidden_size"]:
    """``weight`` - ``size`` * ``signs``^T. It is the original weight but for rounding."""
    return with_key(weight, signs, -size)
