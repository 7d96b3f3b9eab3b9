"""Putting another routing into a live model and taking it out again.

An attached router is an instance whose class was replaced by a subclass made at run time; the subclass runs the
family's own ``forward`` inside an :class:`~okr.discovery.interception.Interception`, so the family's weighting follows
from the chosen experts by itself, to the last bit. Names, parameters, state dict and hooks stay what they were. A copy
or pickle of an attached router is a plain, unattached one.
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
from okr.discovery import RouterSite, discover
from okr.discovery.interception import Interception, Record
from okr.discovery.probe import example_arguments
from okr.errors import AlreadyAttached, RouterNotFound, UnsupportedRouter


class SiteRouting(Protocol):
    """What an attached site does at each call. T tokens, E experts, k kept."""

    dropped: Tensor | None
    """Tokens [T] that a replay leaves without an expert; None outside a replay."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Tensor) -> Tensor:
        """The experts to run [T, k], given what the family ranks [T, E], the router's input [T, d], its choice."""

    def ran(self, experts: Tensor) -> None:
        """Told which experts ran [T, k]; NOTHING_RAN where the family's capacity dropped the token."""


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
    """What an attached router needs at each call."""

    site: RouterSite
    routing: SiteRouting
    family: Family
    guard: Guard


def _blank(native: Any) -> Any:
    """An instance of ``native`` without state: what copies and pickles of an attached router start from."""
    return native.__new__(native)


class _Attached(nn.Module):
    """Mixin of every attached router class."""

    _okr_native: type[nn.Module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        attachment = self.__dict__["_okr_attachment"]
        site, routing = attachment.site, attachment.routing
        states = args[0] if args else next(iter(kwargs.values()))
        hidden = states.reshape(-1, site.hidden_size)
        record = Record()
        with Interception(
            site, states.shape[:-1], lambda scores, native: routing.choose(scores, hidden, native), record
        ):
            output = self._okr_native.forward(self, *args, **kwargs)
        if record.chosen is None or not record.as_proven(site, len(hidden)):
            raise UnsupportedRouter(
                f"{site.path} ({site.router_class}) ranked experts by {record.calls or 'no call'} instead of "
                f"{[name for name, _ in site.calls]}: in this mode its forward does not rank as it was proven to"
            )
        output, experts = attachment.family.finish(output, record.chosen, routing.dropped)
        attachment.guard.ran = True
        routing.ran(experts)
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
    for module, attachment in zip(modules, attachments, strict=True):
        _prove(module, attachment)
    undo: list[Callable[[], None]] = [model.register_forward_hook(guard).remove]
    try:
        for module, attachment in zip(modules, attachments, strict=True):
            if replay:
                undo.append(attachment.family.prepare_replay(module))
            _swap_in(module, attachment)
        yield
    finally:
        for module in modules:
            _swap_out(module)
        for restore in undo:
            restore()


class _Native:
    """Feeds a router's own choice back to it: the proof that interception changes nothing by itself."""

    dropped: Tensor | None = None

    def choose(self, scores: Tensor, hidden: Tensor, native: Tensor) -> Tensor:
        return native

    def ran(self, experts: Tensor) -> None:
        pass


@torch.no_grad()
def _prove(module: nn.Module, attachment: Attachment) -> None:
    """Raise UnsupportedRouter unless the intercepted router, fed its own choice, repeats its output bit for bit.

    On a few random states on the router's device, in a shape that it takes.
    """
    site = attachment.site
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())  # accelerate's: where a part of it runs
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in devices if device is not None), None)
    if device is None:
        device = "cpu" if parameter is None else parameter.device
    dtype = torch.float32 if parameter is None else parameter.dtype
    generator = torch.Generator().manual_seed(0)
    training = module.training
    module.eval()
    try:
        for leading in ((2, 3), (6,)):
            hidden = torch.randn(*leading, site.hidden_size, generator=generator).to(device=device, dtype=dtype)
            problem = _difference(module, attachment, hidden)
            if not problem:
                return
    finally:
        module.train(training)
    raise UnsupportedRouter(f"{site.path} ({site.router_class}) cannot be keyed: {problem}")


def _difference(module: nn.Module, attachment: Attachment, hidden: Tensor) -> str:
    """How the router's output for ``hidden`` changes when its own choice is fed back, or ""."""
    try:
        native = module(hidden.clone(), **example_arguments(module, hidden))
        _swap_in(module, replace(attachment, routing=_Native(), guard=Guard()))
        intercepted = module(hidden.clone(), **example_arguments(module, hidden))
    except UnsupportedRouter as error:
        return str(error)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return f"its forward failed on random states ({type(error).__name__})"
    finally:
        _swap_out(module)
    same = all(map(torch.equal, _tensors(native), _tensors(intercepted)))
    return "" if same else "its native choice, fed back, changes its output"


def _tensors(output: Any) -> list[Tensor]:
    return [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)]


def keyable_sites(model: nn.Module) -> list[RouterSite]:
    """The sites of ``model`` that can be keyed; RouterNotFound when there is none."""
    sites = discover(model)
    keyable = [site for site in sites if site.keyable]
    if not keyable:
        reasons = "; ".join(f"{site.path}: {site.reason}" for site in sites)
        raise RouterNotFound(f"no router of {type(model).__name__} can be keyed: {reasons}")
    return keyable
