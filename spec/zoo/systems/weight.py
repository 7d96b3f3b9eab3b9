"""Attached routers that choose the right experts and pay them wrongly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from okr.engines.choice import EVERY, Own
from okr.engines.transformers import swapping
from okr.engines.transformers.routings import Keyed

from . import Change, broken, keyed

RIGHT = (
    "OKR-WEIGHT-003",
    "OKR-ATTACH-001",
    "OKR-ATTACH-002",
    "OKR-ATTACH-003",
    "OKR-ATTACH-004",
    "OKR-ATTACH-006",
    "OKR-TRACE",
    "OKR-REPLAY-003",
)


@keyed("the native experts' weights for the keyed ones", fails=("OKR-WEIGHT-002",), passes=("OKR-WEIGHT-001", *RIGHT))
class NativeWeights(Keyed):
    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Any = None) -> tuple[Tensor, Tensor]:
        return self.choose(scores, hidden, native), scores.gather(-1, native(EVERY))


@keyed("weights handed out in ascending order", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
class Ascending(Keyed):
    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Any = None) -> tuple[Tensor, Tensor]:
        chosen, weights = super().weigh(scores, hidden, native, keys)
        return chosen, weights.sort(-1).values


@keyed("equal weights", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
class EqualWeights(Keyed):
    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Any = None) -> tuple[Tensor, Tensor]:
        chosen, weights = super().weigh(scores, hidden, native, keys)
        return chosen, weights.mean(-1, keepdim=True).expand_as(weights)


@keyed("weights rounded to bfloat16", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
class RoughWeights(Keyed):
    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Any = None) -> tuple[Tensor, Tensor]:
        chosen, weights = super().weigh(scores, hidden, native, keys)
        return chosen, weights.bfloat16().float()


@keyed("experts in ascending order of their index", fails=("OKR-WEIGHT-001",), passes=("OKR-WEIGHT-002", *RIGHT[:-2]))
class AscendingExperts(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores, hidden, native).sort(-1).values


def _output(change: Change, weigh: Callable[[Any, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Let ``weigh(router, logits, weights, experts)`` have the last word where a key routes."""
    forward: Any = swapping.AttachedRouter.forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        keyed = isinstance(self.__dict__["_okr_attachment"].routing, Keyed)
        if not keyed or hasattr(self, "expert_capacity"):  # Switch gives a mask, not experts
            return output
        logits, weights, experts = output
        return logits, weigh(self, logits, weights, experts), experts

    change(swapping.AttachedRouter, "forward", changed)


@broken("not normalised over the selected", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
def not_normalised(change: Change) -> None:
    _output(change, lambda router, logits, weights, experts: logits.float().softmax(-1).gather(-1, experts))


@broken("a softmax over what is normalised already", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
def normalised_twice(change: Change) -> None:
    _output(change, lambda router, logits, weights, experts: weights.softmax(-1))


@broken("the correction bias paid out", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
def pays_the_bias(change: Change) -> None:
    def weigh(router: Any, logits: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        bias = getattr(router, "e_score_correction_bias", None)
        return weights if bias is None else weights + bias[experts]

    _output(change, weigh)


@broken("the family's scale left out", fails=("OKR-WEIGHT-001", "OKR-WEIGHT-002"), passes=RIGHT)
def drops_the_scale(change: Change) -> None:
    def weigh(router: Any, logits: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        return weights / getattr(router, "routed_scaling_factor", 1.0)

    _output(change, weigh)


@broken("a weight of one part in a million more", fails=("OKR-WEIGHT-001",), passes=("OKR-WEIGHT-002", *RIGHT))
def a_little_more(change: Change) -> None:
    _output(change, lambda router, logits, weights, experts: weights * torch.tensor(1 + 1e-6))
