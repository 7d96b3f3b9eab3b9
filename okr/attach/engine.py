"""Putting another routing into a live model and taking it out again.

An attached router is an instance whose class was replaced by a subclass made at run time; the subclass runs the
family's own ``forward`` inside an :class:`~okr.discovery.interception.Interception`, so the family's weighting follows
from the chosen experts by itself, to the last bit. Names, parameters, state dict and hooks stay what they were. A copy
or pickle of an attached router is a plain, unattached one.
"""

import copyreg
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from okr.attach.families import Family, family_of
from okr.discovery import RouterSite, discover
from okr.discovery.discover import router_input
from okr.discovery.interception import Interception
from okr.errors import AlreadyAttached, RouterNotFound, UnsupportedRouter


class SiteRouting(Protocol):
    """What an attached site does at each call. T tokens, E experts, k kept."""

    dropped: Tensor | None
    """Tokens [T] that a replay leaves without an expert; None outside a replay."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Tensor) -> Tensor:
        """The experts to run [T, k], given what the family ranks [T, E], the router's input [T, d], its choice."""

    def ran(self, experts: Tensor) -> None:
        """Told which experts ran [T, k]; NOTHING_RAN where the family's capacity dropped the token."""


class _Attached(nn.Module):
    """Mixin of every attached router class."""

    _okr_native: type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        site, routing, family = self.__dict__["_okr_attachment"]
        hidden = (args[0] if args else next(iter(kwargs.values()))).reshape(-1, site.hidden_size)
        with Interception(
            site.num_experts, site.top_k, lambda scores, native: routing.choose(scores, hidden, native)
        ) as seen:
            output = self._okr_native.forward(self, *args, **kwargs)
        if tuple(seen.calls) != site.calls or seen.chosen is None or len(seen.chosen) != len(hidden):
            raise UnsupportedRouter(
                f"{site.path} ({site.router_class}) ranked experts by {seen.calls or 'no call'} instead of "
                f"{list(site.calls)}: its forward changed since it was discovered"
            )
        output, experts = family.finish(output, seen.chosen, routing.dropped)
        routing.ran(experts)
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name != "_okr_attachment"}
        if "_old_forward" in state:
            state["_old_forward"] = MethodType(self._okr_native.forward, self)
        return copyreg.__newobj__, (self._okr_native,), state  # type: ignore[attr-defined]


@cache
def _attached_class(native: type) -> type:
    namespace = {"_okr_native": native, "__module__": native.__module__, "__doc__": native.__doc__}
    return type(f"Attached{native.__name__}", (_Attached, native), namespace)


def _swap_in(module: nn.Module, site: RouterSite, routing: SiteRouting, family: Family) -> None:
    native = type(module)
    module.__dict__["_okr_attachment"] = (site, routing, family)
    module.__class__ = _attached_class(native)
    if "_old_forward" in module.__dict__:  # accelerate dispatched this module: its hook calls this instead of forward
        module.__dict__["_old_forward"] = MethodType(type(module).forward, module)


def _swap_out(module: nn.Module) -> None:
    if not isinstance(module, _Attached):
        return
    native = module._okr_native
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
    families = [family_of(module) for module in modules]
    for module, site, family in zip(modules, sites, families, strict=True):
        _prove(module, site, family)
    undo = []
    try:
        for module, site, routing, family in zip(modules, sites, routings, families, strict=True):
            if replay:
                undo.append(family.prepare_replay(module))
            _swap_in(module, site, routing, family)
        yield
    finally:
        for module in modules:
            _swap_out(module)
        for restore in undo:
            restore()


class _Native:
    """Feeds a router's own choice back to it: the proof that interception changes nothing by itself."""

    dropped = None

    def choose(self, scores: Tensor, hidden: Tensor, native: Tensor) -> Tensor:
        return native

    def ran(self, experts: Tensor) -> None:
        pass


@torch.no_grad()
def _prove(module: nn.Module, site: RouterSite, family: Family) -> None:
    """Raise UnsupportedRouter unless the intercepted router, fed its own choice, repeats its output bit for bit."""
    training = module.training
    module.eval()
    try:
        hidden = router_input(module, site.hidden_size, sequence=False)
        native = module(hidden)
        _swap_in(module, site, _Native(), family)
        intercepted = module(hidden)
    finally:
        _swap_out(module)
        module.train(training)
    if not all(map(torch.equal, _tensors(native), _tensors(intercepted))):
        raise UnsupportedRouter(f"{site.path} ({site.router_class}): its native choice, fed back, changes its output")


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
