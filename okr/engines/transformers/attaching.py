"""Putting another routing into a live model and taking it out again.

An attached router is an instance whose class was replaced by a subclass made at run time; the subclass runs the
family's own ``forward`` inside an :class:`~okr.discovery.interception.Interception`, so the family's weighting follows
from the chosen experts by itself, to the last bit; or, for the hot families, that forward written out
(:mod:`okr.engines.transformers.fused`). Names, parameters, state dict and hooks stay what they were. A copy or pickle
of an attached router is a plain, unattached one.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._C._autograd import _top_saved_tensors_default_hooks as _saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from okr.discovery import RouterSite, discover
from okr.discovery.adapters import stand_ins
from okr.discovery.interception import Interception, Record
from okr.discovery.probe import example_arguments
from okr.engines.transformers.families import Family, family_of
from okr.engines.transformers.fused import EVERY, Choosing, Fused, Own, fused_for, tell_slow
from okr.engines.transformers.routings import Native
from okr.errors import AlreadyAttached, RouterNotFound, UnsupportedRouter
from okr.routing.precision import autocast


class SiteRouting(Choosing, Protocol):
    """What an attached site does at each call. T tokens, E experts, k kept."""

    dropped: Tensor | None
    """Tokens [T] that a replay leaves without an expert; None outside a replay."""
    report: Callable[[Callable[[], Tensor]], None] | None
    """Called at every call with what says which experts ran [T, k]; NOTHING_RAN where a capacity dropped the token."""

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Told on attaching where the router takes its states, and their dtype."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        """The experts to run [T, k], given what the family ranks [T, E], the router's input [T, d], its choice."""


class Guard:
    """Raises after a forward of the whole model in which no attached router ever ran: kernels may bypass them; and in a
    backward that would recompute a checkpointed forward after the routers were taken out: it would recompute another.

    Hooked to the model; a copy or pickle of it is idle.
    """

    def __init__(self, idle: bool = False) -> None:
        self.ran = idle
        self.left = False
        self.here = threading.local()

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        if not self.ran:
            raise UnsupportedRouter(
                f"a forward of {type(model).__name__} ran none of its keyed routers: its experts are chosen elsewhere "
                f"(by a kernel?), so nothing would be keyed"
            )
        self.watch(model, args, output)
        self.here.recomputed = False

    def watch(self, module: nn.Module, args: Any, output: Any) -> None:
        """Have a backward from ``output`` look first whether what it may recompute is still attached."""
        if not getattr(self.here, "recomputed", False) or not torch.is_grad_enabled():
            return
        for part in tree_leaves(dict(output) if isinstance(output, dict) else output):
            if isinstance(part, Tensor) and part.requires_grad:
                part.register_hook(self._before_backward)

    def note_router(self) -> None:
        """A router runs. Where its forward keeps no gradients, or hands what it saves to hooks, as checkpointing does,
        a backward may run it again."""
        self.ran = True
        if torch.compiler.is_compiling():
            return
        if not torch.is_grad_enabled() or _saved_tensors_hooks(True) is not None:
            self.here.recomputed = True

    def _before_backward(self, gradient: Tensor) -> None:
        if self.left:
            raise UnsupportedRouter(
                "backward() would recompute a checkpointed forward whose routing is no longer attached, and so give "
                "gradients of another choice of experts: call backward() inside the block"
            )

    def __reduce__(self) -> Any:
        return Guard, (True,)


@dataclass(frozen=True)
class Attachment:
    """What an attached router needs at each call; ``fused`` None: the family's own forward, intercepted."""

    site: RouterSite
    routing: SiteRouting
    family: Family
    guard: Guard
    fused: Fused | None = None


def _intercepted(
    attachment: Attachment, native: Any, module: nn.Module, states: Tensor, args: Any, kwargs: Any
) -> tuple[Any, Tensor]:
    """The output of the family's own forward with the routing's choice answered to it, and that choice [T, k]."""
    site, routing = attachment.site, attachment.routing
    hidden = states.reshape(-1, site.hidden_size)
    record = Record()
    with Interception(
        site, states.shape[:-1], lambda scores, own: routing.choose(scores, hidden, own.__getitem__), record
    ):
        output = native.forward(module, *args, **kwargs)
    if record.chosen is None or not record.as_proven(site, len(hidden)):
        raise UnsupportedRouter(
            f"{site.path} ({site.router_class}) ranked experts by {record.calls or 'no call'} instead of "
            f"{[name for name, _ in site.calls]}: in this mode its forward does not rank as it was proven to"
        )
    return output, record.chosen


def _blank(native: Any) -> Any:
    """An instance of ``native`` without state: what copies and pickles of an attached router start from."""
    return native.__new__(native)


class _Attached(nn.Module):
    """Mixin of every attached router class."""

    _okr_native: type[nn.Module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        attachment, native = self.__dict__["_okr_attachment"], self._okr_native
        states = args[0] if args else next(iter(kwargs.values()))
        fused = attachment.fused
        if fused is not None and len(args) + len(kwargs) == 1 and fused.stands_for(native, states):
            output, chosen = fused.forward(self, states, attachment.routing)
        else:
            output, chosen = _intercepted(attachment, native, self, states, args, kwargs)
        family, routing = attachment.family, attachment.routing
        if routing.dropped is not None:
            output = family.drop(output, routing.dropped)
        attachment.guard.note_router()
        if routing.report is not None:
            routing.report(lambda: family.ran(output, chosen))
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name != "_okr_attachment"}
        if "_old_forward" in state:
            state["_old_forward"] = MethodType(self._okr_native.forward, self)
        return _blank, (self._okr_native,), state


@cache
def _attached_class(native: Any) -> Any:
    namespace = {"_okr_native": native, "__module__": native.__module__, "__doc__": native.__doc__}
    return type(f"Attached{native.__name__}", (_Attached, native), namespace)


def _swap_in(module: nn.Module, attachment: Attachment) -> None:
    native: Any = type(module)
    module.__dict__["_okr_attachment"] = attachment
    module.__class__ = _attached_class(native)
    if "_old_forward" in module.__dict__:  # accelerate dispatched this module: its hook calls this instead of forward
        module.__dict__["_old_forward"] = MethodType(type(module).forward, module)


def _swap_out(module: nn.Module) -> None:
    if not isinstance(module, _Attached):
        return
    native: Any = module._okr_native
    module.__class__ = native
    module.__dict__.pop("_okr_attachment", None)
    if "_old_forward" in module.__dict__:
        module.__dict__["_old_forward"] = MethodType(native.forward, module)


@contextmanager
def attached(
    model: nn.Module, sites: Sequence[RouterSite], routings: Sequence[SiteRouting], *, replay: bool = False
) -> Iterator[None]:
    """Run ``model`` with ``routings[i]`` at ``sites[i]``; the model is as before when the block ends, however.

    ``replay``: the routings force what a trace says ran, so nothing of the family may drop tokens by itself.
    """
    modules = [model.get_submodule(site.path) for site in sites]
    if any(isinstance(module, _Attached) for module in model.modules()):
        raise AlreadyAttached(
            f"this {type(model).__name__} already runs under a watermark, a recorder or a replay; leave that first"
        )
    guard = Guard()
    attachments = [
        Attachment(site, routing, family_of(module), guard)
        for module, site, routing in zip(modules, sites, routings, strict=True)
    ]
    attachments = [_proven(module, attachment) for module, attachment in zip(modules, attachments, strict=True)]
    places = [(m, attachment) for attachment in attachments for m in stand_ins(model, attachment.site.path)]
    undo: list[Callable[[], None]] = [model.register_forward_hook(guard).remove]
    undo += [part.register_forward_hook(guard.watch).remove for part in _around(model, sites)]
    try:
        for module, attachment in places:
            if replay:
                undo.append(attachment.family.prepare_replay(module))
            _swap_in(module, attachment)
        yield
    finally:
        guard.left = True
        for module, _ in places:
            _swap_out(module)
        for restore in undo:
            restore()


def _around(model: nn.Module, sites: Sequence[RouterSite]) -> list[nn.Module]:
    """The modules within ``model`` that hold every site: a forward may begin at any of them."""
    parts = ((f"{path}.", part) for path, part in model.named_modules() if path)
    return [part for path, part in parts if all(site.path.startswith(path) for site in sites)]


class _Next(Native):
    """Feeds back the experts numbered one higher: a choice that the router would not make."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return (native(EVERY) + 1) % scores.shape[-1]


@torch.no_grad()
def _proven(module: nn.Module, attachment: Attachment) -> Attachment:
    """``attachment``, with its fused forward where that gives bit for bit what the intercepted one gives.

    Raises UnsupportedRouter unless the intercepted router, fed its own choice, repeats its output bit for bit. On a
    few random states on the router's device, in a shape that it takes. Autocast around it changes nothing.
    """
    site = attachment.site
    device, dtype = _placement(module)
    kind = torch.device(device).type
    generator = torch.Generator().manual_seed(0)
    training = module.training
    module.eval()
    try:
        for leading in ((2, 3), (6,)):
            hidden = torch.randn(*leading, site.hidden_size, generator=generator).to(device=device, dtype=dtype)
            with autocast(kind, None):
                problem = _difference(module, attachment, hidden)
            if not problem:
                attachment.routing.prepare(hidden.device, hidden.dtype)
                return replace(attachment, fused=_fused(module, attachment, hidden))
    finally:
        module.train(training)
    raise UnsupportedRouter(f"{site.path} ({site.router_class}) cannot be keyed: {problem}")


def _placement(module: nn.Module) -> tuple[torch.device | str, torch.dtype]:
    """Where a router takes its states, and their dtype."""
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())  # accelerate's: where a part of it runs
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in devices if device is not None), None)
    if device is None:
        device = "cpu" if parameter is None else parameter.device
    return device, torch.float32 if parameter is None else parameter.dtype


def _difference(module: nn.Module, attachment: Attachment, hidden: Tensor) -> str:
    """How the router's output for ``hidden`` changes when its own choice is fed back, or ""."""
    try:
        native = module(hidden.clone(), **example_arguments(module, hidden))
        intercepted = _answered(module, replace(attachment, routing=Native()), hidden)
    except UnsupportedRouter as error:
        return str(error)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return f"its forward failed on random states ({type(error).__name__})"
    return "" if _same(native, intercepted) else "its native choice, fed back, changes its output"


def _fused(module: nn.Module, attachment: Attachment, hidden: Tensor) -> Fused | None:
    """The router's fused forward, for the modes of autocast in which it is proven; None where none is in any."""
    known = fused_for(module)
    for fused in known:
        tried = replace(attachment, fused=fused)
        modes = tuple(mode for mode in fused.modes if _fuses(module, tried, hidden, mode))
        if modes:
            return replace(fused, modes=modes)
    if known:
        tell_slow(attachment.site.router_class)
    return None


def _fuses(module: nn.Module, attachment: Attachment, hidden: Tensor, mode: torch.dtype | None) -> bool:
    """Whether the fused forward answers the native choice and another one as the intercepted forward does, for
    ``hidden`` and for a single token. Under autocast to ``mode`` the other choice is enough, and states have either
    dtype."""
    one = hidden.flatten(0, -2)[:1].view(*[1] * (hidden.dim() - 1), -1)
    cases: list[tuple[Tensor, Native]] = [(hidden, _Next()), (one if mode is None else one.to(mode), _Next())]
    if mode is None:
        cases += [(hidden, Native()), (one, Native())]
    try:
        with autocast(hidden.device.type, mode):
            for states, routing in cases:
                tried = replace(attachment, routing=routing)
                if not _same(_answered(module, tried, states), _answered(module, replace(tried, fused=None), states)):
                    return False
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return True


def _answered(module: nn.Module, attachment: Attachment, hidden: Tensor) -> Any:
    """The router's output for ``hidden`` while attached."""
    _swap_in(module, replace(attachment, guard=Guard()))
    try:
        return module(hidden.clone(), **example_arguments(module, hidden))
    finally:
        _swap_out(module)


def _same(one: Any, other: Any) -> bool:
    parts = [
        [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)]
        for output in (one, other)
    ]
    return len(parts[0]) == len(parts[1]) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*parts, strict=True)
    )


def keyable_sites(model: nn.Module) -> list[RouterSite]:
    """The sites of ``model`` that can be keyed; RouterNotFound when there is none."""
    sites = discover(model)
    keyable = [site for site in sites if site.keyable]
    if not keyable:
        reasons = "; ".join(f"{site.path}: {site.reason}" for site in sites)
        raise RouterNotFound(f"no router of {type(model).__name__} can be keyed: {reasons}")
    return keyable
