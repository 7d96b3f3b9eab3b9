"""Replaces the routing of one router, and restores it.

An attached router keeps its instance, but a subclass made at run time replaces its class. The subclass runs the
family's own ``forward`` inside an :class:`~okr.discovery.interception.Interception`, so the family itself weighs the
chosen experts, to the last bit. For the most used families it runs a hand-written forward instead
(:mod:`okr.engines.transformers.fused`). Names, parameters, state dict and hooks stay the same. A copy or pickle of an
attached router is a plain router.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from okr.discovery import RouterSite
from okr.discovery.interception import Interception, Record
from okr.engines.choice import Own
from okr.engines.transformers.families import Family
from okr.engines.transformers.fused import Choosing, Fused
from okr.engines.transformers.guard import Guard
from okr.errors import UnsupportedRouter


class SiteRouting(Choosing, Protocol):
    """What an attached site does at each forward, with T tokens, E experts and k kept."""

    dropped: Tensor | None
    """Which tokens [T] a replay leaves without an expert, or None outside a replay."""
    report: Callable[[Callable[[], Tensor]], None] | None
    """Called at every forward with a function that returns what ran [T, k]. A dropped token has NOTHING_RAN."""

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Called when it is attached, with the device and the dtype of the router's input."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        """The experts to run [T, k]. ``scores`` [T, E] is what the family ranks, ``hidden`` [T, d] the router's input,
        and ``native`` the native selection."""


@dataclass(frozen=True)
class Attachment:
    """What an attached router needs at each forward. If ``fused`` is None, the family's own forward runs and is
    intercepted."""

    site: RouterSite
    routing: SiteRouting
    family: Family
    guard: Guard
    fused: Fused | None = None


def _intercepted(
    attachment: Attachment, native: Any, module: nn.Module, states: Tensor, args: Any, kwargs: Any
) -> tuple[Any, Tensor]:
    """The output of the family's own forward, whose ranking calls get the routing's choice, and that choice [T, k].
    Raises UnsupportedRouter if the forward does not rank as it was proven to."""
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
    """An instance of ``native`` without state, from which a copy or pickle of an attached router is made."""
    return native.__new__(native)


class AttachedRouter(nn.Module):
    """The base of every class of attached routers."""

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
    """The class of attached routers whose own class is ``native``."""
    namespace = {"_okr_native": native, "__module__": native.__module__, "__doc__": native.__doc__}
    return type(f"Attached{native.__name__}", (AttachedRouter, native), namespace)


def swap_in(module: nn.Module, attachment: Attachment) -> None:
    """Attach ``attachment`` to the router ``module``."""
    native: Any = type(module)
    module.__dict__["_okr_attachment"] = attachment
    module.__class__ = _attached_class(native)
    if "_old_forward" in module.__dict__:  # a hook of accelerate calls this instead of forward
        module.__dict__["_old_forward"] = MethodType(type(module).forward, module)


def swap_out(module: nn.Module) -> None:
    """Detach the router ``module``, if it is attached."""
    if not isinstance(module, AttachedRouter):
        return
    native: Any = module._okr_native
    module.__class__ = native
    module.__dict__.pop("_okr_attachment", None)
    if "_old_forward" in module.__dict__:
        module.__dict__["_old_forward"] = MethodType(native.forward, module)
