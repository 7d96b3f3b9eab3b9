"""The proof of a router: what it ranks, over how many experts, and how many it keeps, seen in one forward of it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from okr.discovery.interception import ranking_call

_SOFTMAX = {torch.softmax, functional.softmax, Tensor.softmax}
_LINEAR = {functional.linear, torch.matmul, Tensor.matmul, torch.mm, Tensor.mm, Tensor.__matmul__}
# Calls that leave what a tensor means as it is: dtype, layout, and barring experts by a mask.
_SAME = {
    Tensor.to,
    Tensor.float,
    Tensor.type,
    Tensor.view,
    Tensor.reshape,
    Tensor.contiguous,
    Tensor.flatten,
    Tensor.masked_fill,
    Tensor.type_as,
}


@dataclass
class Finding:
    """What one forward of a router showed."""

    calls: list[str] = field(default_factory=list)
    top_k: int = 0
    ranks: str = ""
    shape: tuple[int, ...] = ()  # of the ranked scores

    @property
    def unit(self) -> str:
        return "score" if self.ranks == "scores" else "logit"


class _Watch(TorchFunctionMode):
    """Follows logits and probabilities through a forward until they are ranked."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.finding = Finding()
        self.kind: dict[int, tuple[Tensor, str]] = {}  # id -> (the tensor, kept alive; what it holds)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        call = ranking_call(func, args, kwargs, self.num_experts)
        if call is not None and (not self.finding.calls or call.top_k == self.finding.top_k):
            if not self.finding.calls:
                self.finding.top_k, self.finding.shape = call.top_k, tuple(call.scores.shape)
                self.finding.ranks = self.kind.get(id(call.scores), (None, "scores"))[1]
            self.finding.calls.append(call.name)
        elif isinstance(output, Tensor):
            kind = self._kind(func, args)
            if kind:
                self.kind[id(output)] = (output, kind)
        return output

    def _kind(self, func: Any, args: tuple[Any, ...]) -> str:
        if func in _SOFTMAX:
            return "probabilities"
        if func in _LINEAR:
            return "logits"
        if func in _SAME and args:
            return self.kind.get(id(args[0]), (None, ""))[1]
        return ""


@torch.no_grad()
def probe(router: nn.Module, hidden: Tensor, num_experts: int) -> Finding:
    """Run ``router`` once on ``hidden`` ([T, d] or [B, S, d], on its device; meta works) and say what it ranked."""
    with _Watch(num_experts) as watch:
        router(hidden)
    return watch.finding
