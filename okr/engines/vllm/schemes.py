"""Gives each router class of vLLM its choice scores and its weights, and proves both before a key is used.

A router of vLLM gets the router's input [T, d] and logits [T, E] and returns weights [T, k] and experts [T, k]. A key
may choose other experts, so their weights must be computed by the family's own formula. No class says its formula, so
every candidate is compared with what the router answers on random logits. What agrees with none is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from okr.discovery import RouterSite
from okr.engines.vllm.weighing import weigh
from okr.errors import UnsupportedRouter
from okr.routing.compiled import in_memory

_SAMPLES = 64
_CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 4e-3}
"""By how much a weight may differ from the router's own, by the dtype of the logits: rounding, relative to the row's
largest."""

Native = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function from the router's input [T, d] and logits [T, E] to weights [T, k] and experts [T, k]."""


@dataclass(frozen=True)
class Scheme:
    """How a router ranks and weighs.

    Attributes:
        scoring: ``softmax`` or ``sigmoid``, the function that makes scores of logits.
        by_score: whether experts are ranked by scores and not by logits.
        renormalise: whether the weights of a token's experts are divided by their sum.
        scaling: a factor of all weights.
        bias: what is added to the scores for ranking only, [E], or None.
        groups: the number of groups of experts and how many of them are kept, or None.
    """

    scoring: str
    by_score: bool
    renormalise: bool
    scaling: float
    bias: Tensor | None = None
    groups: tuple[int, int] | None = None

    def choice(self, logits: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
        """The choice scores, float32; -inf bars an expert of a group that is not kept."""
        logits = logits.float()
        ranked = logits if not self.by_score else self._scores(logits)
        if self.bias is not None:
            ranked = ranked + self.bias.float()
        if self.groups is None:
            return ranked
        count, kept = self.groups
        parts = ranked.view(len(ranked), count, -1)
        rank = parts.amax(-1) if self.bias is None else parts.topk(2, dim=-1).values.sum(-1)
        allowed = torch.zeros_like(rank).scatter_(1, rank.topk(kept, dim=-1).indices, 1).bool()
        return parts.masked_fill(~allowed[:, :, None], -torch.inf).flatten(1)

    def weights(
        self, logits: Float[Tensor, "tokens experts"], experts: Int[Tensor, "tokens top_k"]
    ) -> Float[Tensor, "tokens top_k"]:
        """The weights of ``experts``, float32."""
        logits = logits.float()
        if in_memory(logits):
            kind, row = self.scoring == "softmax", logits.numpy()
            found = weigh(row, experts.numpy(), softmax=kind, renormalise=self.renormalise, scaling=self.scaling)
            return torch.from_numpy(found)
        if self.scoring == "softmax" and self.renormalise:
            weights = logits.gather(-1, experts).softmax(-1)
        elif self.scoring == "softmax":
            weights = (logits.gather(-1, experts) - logits.logsumexp(-1, keepdim=True)).exp()
        else:
            weights = logits.gather(-1, experts).sigmoid()
            if self.renormalise:
                weights = weights / weights.sum(-1, keepdim=True)
        return weights if self.scaling == 1 else weights * self.scaling

    def _scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) if self.scoring == "softmax" else logits.sigmoid()


def proven_scheme(router: Any, native: Native, site: RouterSite, device: torch.device, dtype: torch.dtype) -> Scheme:
    """The scheme of ``router``, which answers as ``native`` on random input of ``dtype``. Raises UnsupportedRouter if
    none does."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(_SAMPLES, site.hidden_size, generator=generator).to(device, dtype)
    logits = (2 * torch.randn(_SAMPLES, site.num_experts, generator=generator)).to(device, dtype)
    try:
        weights, experts = (torch.as_tensor(part) for part in native(hidden, logits))
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsupportedRouter(f"{site.path} ({type(router).__name__}) cannot be tried out: {reason}") from None
    tried = list(_candidates(router, site))
    for scheme in tried if _is_routing(weights, experts, site) else ():
        if _agrees(scheme, logits, weights, experts.long()):
            return scheme
    raise UnsupportedRouter(
        f"{site.path} ({type(router).__name__}) routes by none of the {len(tried)} schemes that a key can stand in for"
    )


def _candidates(router: Any, site: RouterSite) -> Iterator[Scheme]:
    """What ``router`` may do, as far as its attributes leave it open."""
    bias = getattr(router, "e_score_correction_bias", None)
    groups = None
    if getattr(router, "use_grouped_topk", False) or type(router).__name__ == "GroupedTopKRouter":
        groups = (router.num_expert_group, router.topk_group)
        groups = None if groups == (1, 1) else groups
    factor = float(getattr(router, "routed_scaling_factor", 1.0))
    known = getattr(router, "scoring_func", None)
    for scoring in ("softmax", "sigmoid") if known is None or _custom(router) else (known,):
        for renormalise in (True, False):
            for scaling in dict.fromkeys((factor, 1.0)):
                by_score = bias is not None or (scoring == "sigmoid" and site.ranks == "scores")
                yield Scheme(scoring, by_score, renormalise, scaling, bias, groups)


def _custom(router: Any) -> bool:
    return getattr(router, "custom_routing_function", None) is not None


def _is_routing(weights: Tensor, experts: Tensor, site: RouterSite) -> bool:
    """Whether a router's answer has k weights and k distinct experts for each token."""
    shape = (_SAMPLES, site.top_k)
    if weights.shape != shape or experts.shape != shape or not weights.dtype.is_floating_point:
        return False
    ordered = experts.long().sort(-1).values
    inside = (ordered >= 0) & (ordered < site.num_experts)
    return bool(inside.all()) and bool((ordered.diff(dim=-1) > 0).all())


def _agrees(scheme: Scheme, logits: Tensor, weights: Tensor, experts: Tensor) -> bool:
    """Whether the scheme ranks the router's experts first and gives its weights, but for rounding."""
    if scheme.scoring not in ("softmax", "sigmoid"):
        return False
    choice = scheme.choice(logits)
    least = choice.gather(-1, experts).amin(-1)
    best = choice.topk(experts.shape[-1], dim=-1).values[:, -1]
    close = _CLOSE.get(logits.dtype, 0.02)
    largest = choice.abs().masked_fill(choice.isinf(), 0).amax()
    if not bool(torch.isfinite(least).all()) or bool((best - least > close * largest).any()):
        return False
    expected = scheme.weights(logits, experts)
    largest = expected.abs().amax(-1, keepdim=True)
    return bool(((weights.float() - expected).abs() <= close * largest).all())
