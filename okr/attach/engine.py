"""Putting another routing into a live model and taking it out again.

An attached router is an instance whose class was replaced by a subclass made at run time; the subclass runs the
family's own ``forward`` inside an :class:`~okr.discovery.interception.Interception`, so the family's weighting follows
from the chosen experts by itself, to the last bit; or, for the hot families, that forward written out
(:mod:`okr.attach.fused`). Names, parameters, state dict and hooks stay what they were. A copy or pickle of an attached
router is a plain, unattached one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from okr.attach.families import Family, family_of
from okr.attach.fused import EVERY, Choosing, Fused, Own, fused_for
from okr.attach.routings import Native
from okr.discovery import RouterSite, discover
from okr.discovery.adapters import stand_ins
from okr.discovery.interception import Interception, Record
from okr.discovery.probe import example_arguments
from okr.errors import AlreadyAttached, RouterNotFound, UnsupportedRouter


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
    """Raises after a forward of the whole model in which no attached router ever ran: kernels may bypass them.

    Hooked to the model; a copy or pickle of it is idle.
    """

    def __init__(self, idle: bool = False) -> None:
        self.ran = idle

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        if not self.ran:
            raise UnsupportedRouter(
                f"a forward of {type(model).__name__} ran none of its keyed routers: its experts are chosen elsewhere "
                f"(by a kernel?), so nothing would be keyed"
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
        if fused is not None and len(args) + len(kwargs) == 1 and fused.stands_for(native):
            output, chosen = fused.forward(self, states, attachment.routing)
        else:
            output, chosen = _intercepted(attachment, native, self, states, args, kwargs)
        family, routing = attachment.family, attachment.routing
        if routing.dropped is not None:
            output = family.drop(output, routing.dropped)
        attachment.guard.ran = True
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
    try:
        for module, attachment in places:
            if replay:
                undo.append(attachment.family.prepare_replay(module))
            _swap_in(module, attachment)
        yield
    finally:
        for module, _ in places:
            _swap_out(module)
        for restore in undo:
            restore()


class _Next(Native):
    """Feeds back the experts numbered one higher: a choice that the router would not make."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return (native(EVERY) + 1) % scores.shape[-1]


@torch.no_grad()
def _proven(module: nn.Module, attachment: Attachment) -> Attachment:
    """``attachment``, with its fused forward where that gives bit for bit what the intercepted one gives.

    Raises UnsupportedRouter unless the intercepted router, fed its own choice, repeats its output bit for bit. On a
    few random states on the router's device, in a shape that it takes.
    """
    site = attachment.site
    device, dtype = _placement(module)
    generator = torch.Generator().manual_seed(0)
    training = module.training
    module.eval()
    try:
        for leading in ((2, 3), (6,)):
            hidden = torch.randn(*leading, site.hidden_size, generator=generator).to(device=device, dtype=dtype)
            problem = _difference(module, attachment, hidden)
            if not problem:
                attachment.routing.prepare(hidden.device, hidden.dtype)
                fused = fused_for(module)
                return replace(attachment, fused=fused if _fuses(module, attachment, fused, hidden) else None)
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


def _fuses(module: nn.Module, attachment: Attachment, fused: Fused | None, hidden: Tensor) -> bool:
    """Whether ``fused`` answers the native choice and another one as the intercepted forward does, for ``hidden`` and
    for a single token."""
    if fused is None:
        return False
    try:
        for states in (hidden, hidden.flatten(0, -2)[:1].view(*[1] * (hidden.dim() - 1), -1)):
            for routing in (Native(), _Next()):
                general = replace(attachment, routing=routing)
                if not _same(
                    _answered(module, replace(general, fused=fused), states), _answered(module, general, states)
                ):
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
