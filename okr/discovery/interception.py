"""Reads and answers the calls by which a router ranks experts.

A router's own ``forward`` runs inside a ``torch.overrides.TorchFunctionMode``, which sees every torch call. A call
ranks experts if it is ``topk``, ``argmax`` or ``max`` over the expert axis; families that pick experts one by one use
the last two. The interception answers these calls with the experts that its owner chooses. Every other call runs as
written, the family's own weighting included. The mode is active only during the router's own forward, because other
modules (attention indexers) call top-k too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from okr.discovery.sites import RouterSite

_NAMES: dict[Any, str] = {
    torch.topk: "topk",
    Tensor.topk: "topk",
    torch.argmax: "argmax",
    Tensor.argmax: "argmax",
    torch.max: "max",
    Tensor.max: "max",
}
_PARAMETERS = {"topk": ("input", "k", "dim"), "argmax": ("input", "dim", "keepdim"), "max": ("input", "dim", "keepdim")}
_MASKED_FILL = {torch.masked_fill, Tensor.masked_fill}


@dataclass(frozen=True)
class RankingCall:
    """A call that ranks along the last axis of ``scores`` [..., E]. ``name`` is the function, ``top_k`` is how many it
    keeps, and ``keepdim`` says whether its result has an axis for them."""

    name: str
    scores: Tensor
    top_k: int
    keepdim: bool


def ranking_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RankingCall | None:
    """``func(*args, **kwargs)`` as a ranking call, or None if it does not rank along the last axis."""
    name = _NAMES.get(func)
    if name is None:
        return None
    arguments = dict(zip(_PARAMETERS[name], args, strict=False)) | kwargs
    scores, dim = arguments.get("input", arguments.get("self")), arguments.get("dim", -1 if name == "topk" else None)
    if not isinstance(scores, Tensor) or not isinstance(dim, int) or dim not in (-1, scores.dim() - 1):
        return None
    if name == "topk":
        return RankingCall(name, scores, int(arguments["k"]), keepdim=True)
    return RankingCall(name, scores, 1, keepdim=bool(arguments.get("keepdim", False)))


class Record:
    """What one forward of a router did: the names of its ranking ``calls``, and the experts ``chosen`` [T, k] that it
    was given.

    It is separate from the interception because torch.compile does not follow the state of a mode.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.chosen: Tensor | None = None

    def as_proven(self, site: RouterSite, tokens: int) -> bool:
        """Whether the forward ranked experts for ``tokens`` tokens by exactly the calls that ``site`` lists."""
        expected = [name for name, _ in site.calls]
        return self.calls == expected and self.chosen is not None and len(self.chosen) == tokens


class Interception(TorchFunctionMode):
    """Answers a router's ranking calls with the experts that ``choose`` returns.

    ``choose(scores [T, E], native [T, k])`` returns the indices [T, k] of the experts to run. It is called once in a
    forward, at the first ranking call. Later ranking calls of the forward get their part of the same answer. An expert
    that the family masks out just before it ranks reaches ``choose`` as barred: its score is -inf, or 0 if
    probabilities are ranked. ``leading`` is the shape of the router's input without its last axis. ``record`` receives
    what was intercepted.
    """

    def __init__(
        self, site: RouterSite, leading: torch.Size, choose: Callable[[Tensor, Tensor], Tensor], record: Record
    ) -> None:
        super().__init__()
        self.site, self.choose, self.record = site, choose, record
        self.shape = (*((leading.numel(),) if site.flat else leading), site.num_experts)
        self.kept = site.top_k if site.calls[0][0] == "topk" else 1
        self._masked: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _MASKED_FILL:
            self._masked = (output, args[1] if len(args) > 1 else kwargs["mask"])
            return output
        call = ranking_call(func, args, kwargs)
        if call is None or call.top_k != self.kept or call.scores.shape != self.shape:
            return output
        place = len(self.record.calls)
        self.record.calls.append(call.name)
        if self.record.chosen is None:
            self.record.chosen = self.choose(self._scores(call.scores), self._native(call, output))
        if place >= len(self.site.calls):
            return output
        return _answer(call, self.record.chosen, self.site.calls[place][1])

    def _scores(self, scores: Tensor) -> Tensor:
        """The ranked scores as [T, E], in which experts that were just masked out are barred."""
        if self._masked is not None and self._masked[0] is scores:
            scores = scores.masked_fill(self._masked[1], 0.0 if self.site.ranks == "probabilities" else -math.inf)
        return scores.reshape(-1, self.site.num_experts)

    def _native(self, call: RankingCall, output: Any) -> Tensor:
        """The native selection [T, k]. ``output`` is what ``call`` itself returned."""
        indices: Tensor = output if call.name == "argmax" else output.indices
        if self.site.top_k == self.kept:
            return indices.reshape(-1, self.site.top_k)
        rest, picked = call.scores.reshape(-1, self.site.num_experts), [indices.reshape(-1, 1)]
        while len(picked) < self.site.top_k:
            rest = rest.scatter(-1, picked[-1], -math.inf)
            picked.append(rest.argmax(-1, keepdim=True))
        return torch.cat(picked, -1)


def _answer(call: RankingCall, chosen: Tensor, place: int) -> Any:
    """What ``call`` returns if ``chosen`` [T, k] are the experts: their indices, and their values in the call's scores.
    An ``argmax`` or ``max`` gets the column ``place`` of ``chosen``."""
    if call.name == "topk":
        indices = chosen.view(*call.scores.shape[:-1], -1)
        return torch.return_types.topk((call.scores.gather(-1, indices), indices))  # type: ignore[attr-defined]
    indices = chosen[:, place].reshape(*call.scores.shape[:-1], 1)
    shape = indices.shape if call.keepdim else indices.shape[:-1]
    if call.name == "argmax":
        return indices.view(shape)
    values = call.scores.gather(-1, indices)
    return torch.return_types.max((values.view(shape), indices.view(shape)))  # type: ignore[attr-defined]
