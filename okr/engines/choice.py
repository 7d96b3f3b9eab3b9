"""Gives what every engine needs to choose experts at a site: choice scores, projections, and the native selection."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, Int64
from torch import Tensor

from okr.discovery import RouterSite
from okr.routing import Key, key_scores

Own = Callable[[slice | Tensor], Tensor]
"""A function from tokens (a slice, or R indices) to their native selection [R, k]. It is computed when it is called."""

EVERY = slice(None)


def choice_scores(site: RouterSite, scores: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
    """The choice scores c [tokens, experts] of ``scores``, which the family ranks: the same in float32 or wider, or
    their logarithms if the family ranks softmax probabilities."""
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    return scores.log() if site.ranks == "probabilities" else scores


class Projector:
    """The projection of one site under one key. It is copied once to each device that asks for it."""

    def __init__(self, site: RouterSite, key: Key) -> None:
        self._signs = torch.from_numpy(
            key.projection(
                stack=site.stack, layer=site.layer, hidden_size=site.hidden_size, num_experts=site.num_experts
            )
        )
        self._on: dict[torch.device, Tensor] = {}

    def __call__(self, hidden: Float[Tensor, "tokens hidden_size"]) -> Float[Tensor, "tokens experts"]:
        """The key scores g [tokens, experts] of router inputs ``hidden`` [tokens, hidden_size]."""
        return key_scores(hidden, self.on(hidden.device))

    @property
    def signs(self) -> Int8[Tensor, "hidden_size experts"]:
        """The projection on the CPU, int8 [hidden_size, experts] of +1 and -1."""
        return self._signs

    def on(self, device: torch.device) -> Float[Tensor, "hidden_size experts"]:
        """The projection on ``device``, float32 [hidden_size, experts]."""
        projection = self._on.get(device)
        if projection is None:
            rows = self._signs.t().to(device, torch.float32).contiguous()  # in memory an expert's signs are adjacent;
            projection = self._on[device] = rows.t()  # with few experts that makes the product twice as fast
        return projection


def filled(
    selected: tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"], bool], native: Own
) -> Int[Tensor, "tokens top_k"]:
    """The experts to run [tokens, top_k]: those that a :class:`~okr.routing.compiled.Selector` selected, and the native
    selection at tokens that are no opportunity."""
    experts, opportunity, everywhere = selected
    chosen = torch.from_numpy(experts)
    if everywhere:
        return chosen
    left = torch.from_numpy(~opportunity).nonzero().flatten()
    return chosen.index_copy_(0, left, native(left).to(chosen.dtype))
