"""Proves that a router can be attached: when its own choice is fed back to it, it gives the same output, bit for
bit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from okr.discovery import RouterSite
from okr.discovery.probe import example_arguments
from okr.engines.choice import EVERY, Own
from okr.engines.transformers.families import family_of
from okr.engines.transformers.fused import Fused, fused_for, tell_slow
from okr.engines.transformers.guard import Guard
from okr.engines.transformers.routings import Native
from okr.engines.transformers.swapping import Attachment, swap_in, swap_out
from okr.errors import UnsupportedRouter
from okr.routing.precision import autocast


@dataclass(frozen=True)
class Proof:
    """The proof of one router: the ``device`` and ``dtype`` of its input, and its hand-written forward
    (:mod:`okr.engines.transformers.fused`), or None if it has none with the same bits."""

    device: torch.device
    dtype: torch.dtype
    fused: Fused | None


def prove_all(model: nn.Module, sites: Sequence[RouterSite]) -> list[Proof]:
    """A proof of every site's router. Raises UnsupportedRouter for the first router that cannot be proven."""
    return [prove(model.get_submodule(site.path), site) for site in sites]


@torch.no_grad()
def prove(module: nn.Module, site: RouterSite) -> Proof:
    """Prove the router ``module``: intercepted and fed its own choice, it must repeat its own output bit for bit.

    The proof uses a few random states on the router's device, in a shape that the router accepts. Autocast around the
    call has no effect on it. Raises UnsupportedRouter if the outputs differ or the forward fails.
    """
    device, dtype = _placement(module)
    kind = torch.device(device).type
    generator = torch.Generator().manual_seed(0)
    training = module.training
    module.eval()
    try:
        for leading in ((2, 3), (6,)):
            hidden = torch.randn(*leading, site.hidden_size, generator=generator).to(device=device, dtype=dtype)
            with autocast(kind, None):
                problem = _difference(module, site, hidden)
            if not problem:
                return Proof(hidden.device, hidden.dtype, _fused(module, site, hidden))
    finally:
        module.train(training)
    raise UnsupportedRouter(f"{site.path} ({site.router_class}) cannot be keyed: {problem}")


class _Next(Native):
    """Answers with the experts numbered one higher, a choice that the router itself does not make."""

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return (native(EVERY) + 1) % scores.shape[-1]


def _placement(module: nn.Module) -> tuple[torch.device | str, torch.dtype]:
    """The device and the dtype of the router's input."""
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())  # accelerate's: where a part runs
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in devices if device is not None), None)
    if device is None:
        device = "cpu" if parameter is None else parameter.device
    return device, torch.float32 if parameter is None else parameter.dtype


def _difference(module: nn.Module, site: RouterSite, hidden: Tensor) -> str:
    """How the router's output for ``hidden`` changes when its own choice is fed back, or "" if it does not."""
    try:
        native = module(hidden.clone(), **example_arguments(module, hidden))
        intercepted = answered(module, _trial(module, site, Native()), hidden)
    except UnsupportedRouter as error:
        return str(error)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return f"its forward failed on random states ({type(error).__name__})"
    return "" if same_outputs(native, intercepted) else "its native choice, fed back, changes its output"


def _fused(module: nn.Module, site: RouterSite, hidden: Tensor) -> Fused | None:
    """The router's hand-written forward, with the autocast dtypes for which it is proven, or None if it is proven for
    none."""
    known = fused_for(module)
    for fused in known:
        modes = tuple(mode for mode in fused.modes if _fuses(module, site, fused, hidden, mode))
        if modes:
            return replace(fused, modes=modes)
    if known:
        tell_slow(site.router_class)
    return None


def _fuses(module: nn.Module, site: RouterSite, fused: Fused, hidden: Tensor, mode: torch.dtype | None) -> bool:
    """Whether the hand-written forward gives the same output as the intercepted one under autocast to ``mode``. It is
    tried on ``hidden`` and on a single token, with another choice and, without autocast, with the native choice. Under
    autocast the single token has the dtype ``mode``."""
    one = hidden.flatten(0, -2)[:1].view(*[1] * (hidden.dim() - 1), -1)
    cases: list[tuple[Tensor, Native]] = [(hidden, _Next()), (one if mode is None else one.to(mode), _Next())]
    if mode is None:
        cases += [(hidden, Native()), (one, Native())]
    try:
        with autocast(hidden.device.type, mode):
            for states, routing in cases:
                both = [answered(module, _trial(module, site, routing, way), states) for way in (fused, None)]
                if not same_outputs(*both):
                    return False
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return True


def _trial(module: nn.Module, site: RouterSite, routing: Native, fused: Fused | None = None) -> Attachment:
    """An attachment of ``module`` for one call."""
    return Attachment(site, routing, family_of(module), Guard(), fused)


def answered(module: nn.Module, attachment: Attachment, hidden: Tensor) -> Any:
    """The output of the router ``module`` for ``hidden`` [..., d] while ``attachment`` is attached."""
    swap_in(module, attachment)
    try:
        return module(hidden.clone(), **example_arguments(module, hidden))
    finally:
        swap_out(module)


def same_outputs(one: Any, other: Any) -> bool:
    """Whether two outputs of a router hold the same tensors, to the last bit."""
    parts = [
        [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)]
        for output in (one, other)
    ]
    return len(parts[0]) == len(parts[1]) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*parts, strict=True)
    )
