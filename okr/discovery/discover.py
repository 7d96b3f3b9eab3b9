"""Finding a model's routers: by what its classes say they record, by their shapes, and by a proof."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from okr.discovery.probe import Finding, probe
from okr.discovery.sites import RouterSite
from okr.errors import RouterNotFound

_NAMES = ("router", "gate")
_CLASSES = re.compile(r"(Router|Gate|Gating|TopK)$")


def discover(model: nn.Module) -> list[RouterSite]:
    """Every router of ``model``, in the order in which its layers run.

    Raises RouterNotFound, with a log of what was looked at, when there is none.
    """
    log: list[str] = []
    sites = [_site(model, path, router, log) for path, router in _candidates(model, log)]
    found = [site for site in sites if site is not None]
    if not found:
        raise RouterNotFound(
            f"no router found in {type(model).__name__} (未找到任何gate层): is it a Mixture-of-Experts model? "
            f"looked at {len(log)} modules, see the discovery log",
            tuple(log),
        )
    return found


def _candidates(model: nn.Module, log: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that the model's classes record as routers, or that sit beside experts under a router's name."""
    recorded = tuple(_recorded_classes(model))
    modules = dict(model.named_modules())
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        beside_experts = isinstance(getattr(modules.get(parent), "experts", None), nn.Module)
        named = name in _NAMES and (beside_experts or _CLASSES.search(type(module).__name__))
        if isinstance(module, recorded) or named:
            yield path, module
        elif beside_experts or name.startswith(_NAMES):
            log.append(f"{path} ({type(module).__name__}): not a router by class or name")
    if not log:
        log.extend(f"{path} ({type(module).__name__}): no experts beside it" for path, module in modules.items())


def _recorded_classes(model: nn.Module) -> Iterator[type]:
    for module in model.modules():
        recorder = (getattr(type(module), "_can_record_outputs", None) or {}).get("router_logits")
        for entry in recorder if isinstance(recorder, list | tuple) else [recorder]:
            target = getattr(entry, "target_class", entry)
            if isinstance(target, type):
                yield target


def router_input(router: nn.Module, hidden_size: int, sequence: bool) -> Tensor:
    """A few random hidden states on the router's device, in its dtype; [1, 4, d] where ``sequence``, else [4, d]."""
    parameter = next(router.parameters())
    hook = getattr(router, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is None:
        device = parameter.device
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, hidden_size, generator=generator).to(device=device, dtype=parameter.dtype)
    return hidden[None] if sequence else hidden


def _weight(router: nn.Module) -> Tensor | None:
    """The [experts, hidden] matrix of a router."""
    weights = [p for p in router.parameters() if p.dim() == 2]
    return weights[0] if len(weights) == 1 else None


def _site(model: nn.Module, path: str, router: nn.Module, log: list[str]) -> RouterSite | None:
    weight = _weight(router)
    if weight is None:
        log.append(f"{path} ({type(router).__name__}): no single [experts, hidden] weight")
        return None
    experts, hidden_size = weight.shape
    finding, problem = _prove(router, experts, hidden_size)
    layers = [int(part) for part in path.split(".") if part.isdigit()]
    if not finding.calls:
        problem = problem or "its forward ranks no experts"
        log.append(f"{path} ({type(router).__name__}): {problem}")
    return RouterSite(
        path=path,
        stack="encoder" if path.split(".")[0] == "encoder" else "decoder",
        layer=layers[0] if layers else 0,
        router_class=type(router).__name__,
        num_experts=experts,
        top_k=finding.top_k,
        hidden_size=hidden_size,
        unit=finding.unit,
        ranks=finding.ranks,
        calls=tuple(finding.calls),
        keyable=bool(finding.calls),
        reason=problem,
    )


def _prove(router: nn.Module, experts: int, hidden_size: int) -> tuple[Finding, str]:
    problem = ""
    for sequence in (False, True):
        try:
            finding = probe(router, router_input(router, hidden_size, sequence), experts)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            problem = f"its forward failed in the proof: {type(error).__name__}"
            continue
        if finding.calls:
            return finding, ""
    return Finding(), problem
