"""Proves a router by running its forward once. The proof shows what the forward ranks, over how many experts, and how
many it keeps."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from okr.discovery.adapters import places
from okr.discovery.interception import RankingCall, ranking_call
from okr.discovery.sites import Calls, Ranks
from okr.discovery.weightless import twin, weightless

_SOFTMAX = {torch.softmax, functional.softmax, Tensor.softmax}
_LINEAR = {functional.linear, torch.matmul, Tensor.matmul, torch.mm, Tensor.mm, Tensor.__matmul__}
_LOG = {torch.log_softmax, functional.log_softmax, Tensor.log_softmax, torch.log, Tensor.log}
# Calls that keep the meaning of a tensor: they change its dtype or layout, or bar experts by a mask.
_SAME = {
    Tensor.to,
    Tensor.float,
    Tensor.type,
    Tensor.type_as,
    Tensor.view,
    Tensor.reshape,
    Tensor.contiguous,
    Tensor.flatten,
    Tensor.detach,
    Tensor.clone,
    Tensor.__getitem__,
    Tensor.masked_fill,
    torch.masked_fill,
    torch.scatter,
    Tensor.scatter,
}
# With a bias or a scale, logits are still logits, but a probability is only a score.
_SHIFT = {
    torch.add,
    Tensor.add,
    Tensor.__add__,
    Tensor.__radd__,
    torch.mul,
    Tensor.mul,
    Tensor.__mul__,
    Tensor.__rmul__,
    torch.div,
    Tensor.div,
    Tensor.__truediv__,
}


@dataclass(frozen=True)
class Finding:
    """How a forward ranked experts. ``owner`` is the path of the innermost submodule that ranked, "" for the module
    itself. The other fields are those of :class:`~okr.discovery.sites.RouterSite`."""

    owner: str
    calls: Calls
    num_experts: int
    top_k: int
    ranks: Ranks
    flat: bool


@dataclass(frozen=True)
class Seen:
    """One ranking call of a forward. ``indices`` is what it returned, ``kind`` what its scores are, and ``owner`` the
    path of the module whose forward made it."""

    call: RankingCall
    indices: Tensor
    kind: Ranks
    owner: str


class Watch(TorchFunctionMode):
    """Lists every ranking call of a forward. It follows logits and probabilities through the forward to know what each
    call ranked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.inside: list[str] = [""]  # paths of the modules whose forward runs, innermost last
        self._kind: dict[int, tuple[Tensor, Ranks]] = {}  # by id: the tensor, kept alive, and its kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        call = ranking_call(func, args, kwargs)
        if call is not None:
            indices = output if isinstance(output, Tensor) else output.indices
            self.seen.append(Seen(call, indices, self._of(call.scores) or "scores", self.inside[-1]))
        elif isinstance(output, Tensor) and (kind := self._kind_after(func, args)):
            self._kind[id(output)] = (output, kind)
        return output

    def _of(self, value: Any) -> Ranks:
        """What ``value`` holds, or "" if that is not known."""
        return self._kind.get(id(value), (None, ""))[1]  # type: ignore[return-value]

    def _kind_after(self, func: Any, args: tuple[Any, ...]) -> Ranks:
        """What the result of ``func(*args)`` holds, or "" if that is not known."""
        if func in _SOFTMAX:
            return "probabilities"
        if func in _LINEAR or func in _LOG:
            return "logits"
        if func in _SAME and args:
            return self._of(args[0])
        if func in _SHIFT and "logits" in map(self._of, args[:2]):
            return "logits"
        return ""

    @contextmanager
    def attributing(self, module: nn.Module) -> Iterator[None]:
        """Within the block, note for each ranking call the innermost submodule of ``module`` whose forward made it, by
        its path without wrappers."""
        handles = []
        for place in places(module):
            if place.plain:
                entered = partial(self._entered, place.plain)
                handles.append(place.module.register_forward_pre_hook(entered, with_kwargs=True))
                handles.append(place.module.register_forward_hook(self._left))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entered(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.inside.append(name)

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()


def finding_of(seen: list[Seen], leading: torch.Size) -> Finding | None:
    """How a forward ranked experts, from the ranking calls that were ``seen`` in it. Its input has the shape [*leading,
    hidden]. None if it ranked none.

    The last call decides, because earlier calls only narrow the choice (to groups of experts). A ``topk`` decides
    alone. All ``argmax`` and ``max`` calls over scores of that shape decide together, one place for each tensor of
    scores.
    """
    if not seen:
        return None
    last = seen[-1]
    name, scores = last.call.name, last.call.scores
    group = [s for s in seen if s.call.name != "topk" and s.call.scores.shape == scores.shape]
    if name == "topk":
        group = [last]
    distinct = list(dict.fromkeys(id(s.call.scores) for s in group))
    calls = tuple((s.call.name, distinct.index(id(s.call.scores))) for s in group)
    flat = scores.shape[:-1] != leading
    if flat and scores.shape[:-1] != (leading.numel(),):
        return None
    top_k = last.call.top_k if name == "topk" else len(distinct)
    return Finding(last.owner, calls, scores.shape[-1], top_k, group[0].kind, flat)


def example_arguments(module: nn.Module, hidden: Tensor) -> dict[str, Tensor]:
    """Zeros for the arguments that ``module.forward`` needs beside the hidden states ``hidden``. An argument is taken
    to be token ids, or one number for each expert (a correction bias that the block keeps)."""
    forward = getattr(type(module), "_okr_native", type(module)).forward
    needed = [
        parameter.name
        for parameter in list(inspect.signature(forward).parameters.values())[2:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and (parameter.default is parameter.empty or "bias" in parameter.name)
    ]
    weight = next((p for p in module.parameters() if p.dim() == 2), None)
    experts = getattr(module, "num_experts", None) or (0 if weight is None else len(weight))
    return {
        name: torch.zeros(hidden.shape[:-1], dtype=torch.long, device=hidden.device)
        if "ids" in name
        else torch.zeros(experts, device=hidden.device)
        for name in needed
    }


@torch.no_grad()
def probe(module: nn.Module, hidden_size: int) -> tuple[Finding | None, str]:
    """How ``module``'s forward ranks experts, seen on example inputs and without its weights. If it ranks none: None,
    and the reason.

    A forward may fail after it has ranked, because it needs real values or further arguments. It has shown enough by
    then.
    """
    problem = "its forward ranks no experts"
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point() and p.dim() == 2), torch.float32)
    with weightless():
        for leading in ((2, 3), (6,)):
            copy = twin(module).eval()
            hidden = torch.zeros(*leading, hidden_size, dtype=dtype)
            watch = Watch()
            try:
                with watch.attributing(copy), watch:
                    copy(hidden, **example_arguments(module, hidden))
            except Exception as error:  # a forward may raise anything; what it ranked before counts
                problem = f"its forward failed on stand-in inputs ({type(error).__name__})"
            finding = finding_of(watch.seen, torch.Size(leading))
            if finding is not None:
                return finding, ""
    return None, problem
