"""Key scores (spec chapter SCORE)."""

import torch
from jaxtyping import Float
from torch import Tensor

from okr.routing.precision import autocast, lowered

TINY = torch.finfo(torch.float32).tiny


def key_scores(
    hidden: Float[Tensor, "tokens hidden_size"], projection: Float[Tensor, "hidden_size experts"]
) -> Float[Tensor, "tokens experts"]:
    """The key scores g = (h . projection) / ||h||, [tokens, experts], in the dtype of ``projection``. h = 0 gives g =
    0.

    ``projection`` holds +1 and -1 in the dtype to compute in, float32 or float64. Over random keys every score has
    mean 0 and variance 1, whatever the scale of h. The norm divides the product, which has about thirty times fewer
    numbers than the states. The sum of squares stays in range while the largest |h| lies between 2^-30 and 2^30
    (OKR-SCORE-003).
    """
    hidden = hidden.to(projection.dtype)
    norm: Tensor = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    return products(hidden, projection).div_(norm.clamp_min(TINY))


def products(
    hidden: Float[Tensor, "tokens hidden_size"], projection: Float[Tensor, "hidden_size experts"]
) -> Float[Tensor, "tokens experts"]:
    """The product h . projection. Both have the dtype to compute in, and autocast does not lower it."""
    if lowered(hidden) is None:
        return hidden @ projection
    with autocast(hidden.device.type, None):
        return hidden @ projection
