"""What every engine needs to choose experts at a site: choice scores, projections, the family's own choice."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, Int64
from torch import Tensor

from okr.discovery import RouterSite
from okr.routing import Key, key_scores

Own = Callable[[slice | Tensor], Tensor]
"""Which tokens (a slice, or their places [R]) -> the family's own choice for them [R, k], made when it is asked for."""

EVERY = slice(None)


def choice_scores(site: RouterSite, scores: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
    """c: what the family ranks, in float32 or wider; logarithms where it ranks softmax probabilities."""
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    return scores.log() if site.ranks == "probabilities" else scores


class Projector:
    """The projection of one site under one key, as a tensor on whichever device asks (made once a device)."""

    def __init__(self, site: RouterSite, key: Key) -> None:
        self._signs = torch.from_numpy(
            key.projection(
                stack=site.stack, layer=site.layer, hidden_size=site.hidden_size, num_experts=site.num_experts
            )
        )
        self._on: dict[torch.device, Tensor] = {}

    def __call__(self, hidden: Float[Tensor, "tokens hidden_size"]) -> Float[Tensor, "tokens experts"]:
        """The key scores g of router inputs."""
        return key_scores(hidden, self.on(hidden.device))

    @property
    def signs(self) -> Int8[Tensor, "hidden_size experts"]:
        """The projection as it is in the key, on the CPU."""
        return self._signs

    def on(self, device: torch.device) -> Float[Tensor, "hidden_size experts"]:
        """The projection on ``device``, float32."""
        projection = self._on.get(device)
        if projection is None:
            rows = self._signs.t().to(device, torch.float32).contiguous()  # an expert's signs together, as in a gate:
            projection = self._on[device] = rows.t()  # with few experts the product is twice as fast
        return projection


def filled(
    selected: tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"], bool], native: Own
) -> Int[Tensor, "tokens top_k"]:
    """What a :class:`~okr.routing.compiled.Selector` selected, and the family's own choice where there is no
    opportunity."""
    experts, opportunity, everywhere = selected
    chosen = torch.from_numpy(experts)
    if everywhere:
        return chosen
    left = torch.from_numpy(~opportunity).nonzero().flatten()
    return chosen.index_copy_(0, left, native(left).to(chosen.dtype))
