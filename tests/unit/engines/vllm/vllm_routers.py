"""Routers as vLLM has them, written for the tests alone, in NumPy: what they rank, and how they weigh."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from okr.discovery import RouterSite


def site(num_experts: int = 16, top_k: int = 4, ranks: Any = "logits") -> RouterSite:
    return RouterSite(
        path="model.layers.1.mlp.gate",
        stack="decoder",
        layer=1,
        router_class="Gate",
        num_experts=num_experts,
        top_k=top_k,
        hidden_size=32,
        unit="score" if ranks == "scores" else "logit",
        ranks=ranks,
        calls=(("topk", 0),),
        flat=False,
        keyable=True,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(-1, keepdims=True))
    return found / found.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-scores, -1, kind="stable")[:, :count]


@dataclass
class Router:
    """A router with the attributes of vLLM's, and of none that it has not. ``answer`` is its computation."""

    top_k: int
    scoring_func: str
    renormalize: bool
    routed_scaling_factor: float = 1.0
    e_score_correction_bias: Tensor | None = None
    use_grouped_topk: bool = False
    num_expert_group: int | None = None
    topk_group: int | None = None

    def answer(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        given = logits.double().numpy()
        scores = softmax(given) if self.scoring_func == "softmax" else sigmoid(given)
        experts = largest(self.allowed(self.ranked(scores)), self.top_k)
        weights = np.take_along_axis(scores, experts, -1)
        if self.renormalize:
            weights = weights / weights.sum(-1, keepdims=True)
        return torch.from_numpy(weights * self.routed_scaling_factor).float(), torch.from_numpy(experts).int()

    def ranked(self, scores: np.ndarray) -> np.ndarray:
        bias = self.e_score_correction_bias
        return scores if bias is None else scores + bias.double().numpy()

    def allowed(self, ranked: np.ndarray) -> np.ndarray:
        """What is ranked, -inf outside the best groups: by their best expert, or with a bias by their two best."""
        if not self.use_grouped_topk:
            return ranked
        assert self.num_expert_group is not None
        assert self.topk_group is not None
        parts = ranked.reshape(len(ranked), self.num_expert_group, -1)
        ordered = np.sort(parts, -1)
        of_group = ordered[..., -1] if self.e_score_correction_bias is None else ordered[..., -2:].sum(-1)
        kept = np.zeros_like(of_group, bool)
        np.put_along_axis(kept, largest(of_group, self.topk_group), True, -1)
        return np.where(kept[..., None], parts, -np.inf).reshape(ranked.shape)


class CustomRouter:
    """A router by a function, as vLLM keeps for some families. Its attributes say nothing of the function."""

    scoring_func = "softmax"

    def __init__(self, function: Any) -> None:
        self.custom_routing_function = function

    def answer(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        weights, experts = self.custom_routing_function(logits.double().numpy())
        return torch.from_numpy(weights).float(), torch.from_numpy(experts).int()


def topk_then_sigmoid(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    experts = largest(logits, 4)
    return sigmoid(np.take_along_axis(logits, experts, -1)), experts


def topk_then_softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    experts = largest(logits, 4)
    return softmax(np.take_along_axis(logits, experts, -1)), experts
