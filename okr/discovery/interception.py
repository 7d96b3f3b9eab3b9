"""Reading and answering the calls by which a router ranks experts.

A router's own ``forward`` runs inside a ``torch.overrides.TorchFunctionMode`` that sees every torch call. The calls
that rank experts (``topk``, and ``argmax`` or ``max`` where one expert is kept) over the expert axis are answered by
whoever holds the interception; everything else, the family's own weighting included, runs as written. The mode is
open only during the router's own forward: attention indexers call top-k too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TOPK = {torch.topk, Tensor.topk}
_ARGMAX = {torch.argmax, Tensor.argmax}
_MAX = {torch.max, Tensor.max}


@dataclass(frozen=True)
class RankingCall:
    """One call that ranks experts: ``scores`` [..., E] and how many are kept."""

    name: str
    scores: Tensor
    top_k: int


def ranking_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], num_experts: int) -> RankingCall | None:
    """The ranking call that ``func(*args, **kwargs)`` is, or None.

    A top-k counts over the last axis of two-dimensional scores only (group top-k calls are three-dimensional).
    """
    name = "topk" if func in _TOPK else "argmax" if func in _ARGMAX else "max" if func in _MAX else None
    if name is None:
        return None
    arguments = dict(zip(("input", "k", "dim") if name == "topk" else ("input", "dim", "keepdim"), args, strict=False))
    arguments |= kwargs
    scores, dim = arguments.get("input", arguments.get("self")), arguments.get("dim", -1 if name == "topk" else None)
    if not isinstance(scores, Tensor) or not isinstance(dim, int) or scores.dim() == 0:
        return None
    if dim not in (-1, scores.dim() - 1) or scores.shape[-1] != num_experts:
        return None
    if name == "topk":
        return RankingCall(name, scores, int(arguments["k"])) if scores.dim() == 2 else None
    return None if arguments.get("keepdim") else RankingCall(name, scores, 1)


class Interception(TorchFunctionMode):
    """Answers a router's ranking calls with ``choose(scores [T, E], native [T, k]) -> indices [T, k]``.

    ``choose`` is asked once a forward; further ranking calls of the same forward (``max`` after ``argmax``) get the
    same answer. ``calls`` lists what was intercepted.
    """

    def __init__(self, num_experts: int, top_k: int, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.choose = num_experts, top_k, choose
        self.calls: list[str] = []
        self.chosen: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        call = ranking_call(func, args, kwargs, self.num_experts)
        if call is None or call.top_k != self.top_k:
            return output
        self.calls.append(call.name)
        if self.chosen is None:
            native = output if call.name == "argmax" else output.indices
            scores = call.scores.reshape(-1, self.num_experts)
            self.chosen = self.choose(scores, native.reshape(-1, self.top_k))
        return _answer(call, self.chosen, output)


def _answer(call: RankingCall, chosen: Tensor, native: Any) -> Any:
    """What ``call`` returns when ``chosen`` [T, k] are the experts: values gathered from the same scores."""
    if call.name == "topk":
        return torch.return_types.topk((call.scores.gather(-1, chosen), chosen))  # type: ignore[attr-defined]
    indices = chosen.view(call.scores.shape[:-1])
    if call.name == "argmax":
        return indices
    values = call.scores.gather(-1, indices[..., None])[..., 0]
    return torch.return_types.max((values, indices))  # type: ignore[attr-defined]
