"""Hand-written forwards of the most used router families, with one open place: where experts are chosen.

The general way runs a router's own forward and intercepts its ranking calls. For softmax top-k routers and Switch the
same computation is a few lines, written here without interception. A hand-written forward is used only for exactly the
class that it was written for, and only after it gave the same bits as the router's own forward.

The gate's matrix product is the family's own, and the key's product is a second one. A joint product
[gate | projection] would round the gate's logits otherwise for some shapes, but an attached router must not change a
bit where the key decides nothing (docs/performance.md has the measurement). A routing may make both products at once
where that was proven to keep every bit (docs/gpu.md).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from okr.engines.choice import Own
from okr.routing.precision import lowered


class Choosing(Protocol):
    """The two steps of a forward that the site's routing makes."""

    def gate(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """The gate's logits [T, E]: the router's input ``hidden`` [T, d] times its ``weight`` [E, d], both cast to
        ``dtype`` first. Also the key scores [T, E] if the same product made them, else None."""

    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The experts to run [T, k] and their scores [T, k]. ``scores`` [T, E] is what the family ranks, ``hidden``
        [T, d] the router's input, ``native`` the native selection, and ``keys`` the key scores that ``gate`` gave."""


Forward = Callable[[Any, Tensor, Choosing], tuple[Any, Tensor]]
"""A function from a router, its input [..., d] and the routing to the router's output and the chosen experts [T, k]."""


@dataclass(frozen=True)
class Fused:
    """A hand-written forward. It is valid only while the class still has ``own``, the forward that it was written for,
    and only under the autocast dtypes ``modes`` (None: no autocast)."""

    forward: Forward
    own: Any
    modes: tuple[torch.dtype | None, ...] = (None, torch.bfloat16, torch.float16)

    def stands_for(self, native: Any, states: Tensor) -> bool:
        """Whether this forward is valid for the router class ``native`` and for ``states`` under the present
        autocast."""
        return native.forward is self.own and lowered(states) in self.modes


def fused_for(module: nn.Module) -> list[Fused]:
    """The hand-written forwards that may replace that of ``module``, one for each variant in releases of transformers.
    The list is empty if the general way must serve it."""
    known = type(module)
    if getattr(module, "topk_method", "greedy") != "greedy":
        return []
    entries = _FORWARDS.get(f"{known.__module__}.{known.__qualname__}", ())
    return [Fused(entry, known.forward) for entry in entries]


@cache
def tell_slow(router_class: str) -> None:
    """Warn, once in a process, that a router runs without its hand-written forward."""
    logging.getLogger(__name__).warning(
        "%s: in this release of transformers its forward gives other bits than okr's fast path, which is therefore not "
        "used: results are right, but slower",
        router_class,
    )


def _deepseek_v2(router: Any, states: Tensor, routing: Choosing) -> tuple[Any, Tensor]:
    hidden = states.view(-1, router.hidden_dim)
    if hidden.is_cpu:
        hidden = hidden.type(torch.float32)  # one cast for both products; cards take 16 bits for the key's
    logits, keys = routing.gate(hidden, router.weight, torch.float32)
    scores = logits.softmax(dim=-1, dtype=torch.float32)
    chosen, weights = routing.weigh(
        scores, hidden, lambda rows: torch.topk(scores[rows], k=router.top_k, dim=-1, sorted=False).indices, keys
    )
    if router.routed_scaling_factor != 1:
        weights = weights * router.routed_scaling_factor
    return (logits, weights, chosen), chosen


def _mixtral(router: Any, states: Tensor, routing: Choosing) -> tuple[Any, Tensor]:
    hidden = states.reshape(-1, router.hidden_dim)
    logits, keys = routing.gate(hidden, router.weight)
    scores = functional.softmax(logits.float(), dim=-1)
    chosen, weights = routing.weigh(scores, hidden, lambda rows: scores[rows].topk(router.top_k, dim=-1).indices, keys)
    return (logits, weights / weights.sum(dim=-1, keepdim=True), chosen), chosen


def _qwen(router: Any, states: Tensor, routing: Choosing) -> tuple[Any, Tensor]:
    hidden = states.reshape(-1, router.hidden_dim)
    logits, keys = routing.gate(hidden, router.weight)
    scores = functional.softmax(logits, dtype=torch.float, dim=-1)
    chosen, weights = routing.weigh(scores, hidden, lambda rows: scores[rows].topk(router.top_k, dim=-1).indices, keys)
    if router.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return (logits, weights.to(logits.dtype), chosen), chosen


def _switch_scores(router: Any, states: Tensor, routing: Choosing) -> tuple[Tensor, Tensor, Tensor]:
    """The logits [..., E] of a Switch router, the chosen experts [T, 1] and their weights [..., 1]."""
    hidden = states.to(router.dtype)
    if router.training and router.jitter_noise > 0:
        hidden *= torch.empty_like(hidden).uniform_(1.0 - router.jitter_noise, 1.0 + router.jitter_noise)
    if router.classifier.weight.dtype != router.dtype:
        router.classifier = router.classifier.to(router.dtype)
    logits = router.classifier(hidden)
    scores = functional.softmax(logits, dim=-1, dtype=router.dtype).to(states.dtype)
    flat = scores.view(-1, router.num_experts)
    hidden = states.reshape(len(flat), -1)
    chosen, weights = routing.weigh(flat, hidden, lambda rows: flat[rows].argmax(dim=-1, keepdim=True))
    return logits, chosen, weights.view(*scores.shape[:-1], 1)


def _kept(router: Any, experts: Tensor) -> Tensor:
    """The one-hot mask [..., S, E] of ``experts``, integers [..., S], without the tokens among S that an expert's
    capacity drops."""
    mask: Tensor = functional.one_hot(experts, num_classes=router.num_experts)
    mask *= torch.cumsum(mask, dim=-2) <= router.expert_capacity
    return mask


def _switch(router: Any, states: Tensor, routing: Choosing) -> tuple[Any, Tensor]:
    logits, chosen, weights = _switch_scores(router, states, routing)
    return (_kept(router, chosen.view(states.shape[:-1])), weights, logits), chosen


def _switch_each_token(router: Any, states: Tensor, routing: Choosing) -> tuple[Any, Tensor]:
    """Switch as in transformers 5.17: each token counts its capacity alone, and the output has the weights twice."""
    _, chosen, weights = _switch_scores(router, states, routing)
    return (weights, _kept(router, chosen.view(*states.shape[:-1], 1)), weights), chosen


_MODELS = "transformers.models"
_FORWARDS: dict[str, tuple[Forward, ...]] = {
    f"{_MODELS}.deepseek_v2.modeling_deepseek_v2.DeepseekV2TopkRouter": (_deepseek_v2,),  # also of DeepSeek-MoE
    f"{_MODELS}.mixtral.modeling_mixtral.MixtralTopKRouter": (_mixtral,),
    f"{_MODELS}.qwen2_moe.modeling_qwen2_moe.Qwen2MoeTopKRouter": (_qwen,),
    f"{_MODELS}.qwen3_moe.modeling_qwen3_moe.Qwen3MoeTopKRouter": (_qwen,),
    f"{_MODELS}.olmoe.modeling_olmoe.OlmoeTopKRouter": (_qwen,),
    f"{_MODELS}.switch_transformers.modeling_switch_transformers.SwitchTransformersTop1Router": (
        _switch,
        _switch_each_token,
    ),
}
