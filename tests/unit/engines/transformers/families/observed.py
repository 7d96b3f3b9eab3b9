"""What keyed routers did, read from their inputs and outputs in whatever layout the family has."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from okr.discovery import RouterSite

BLOCKS = ("DbrxFFN", "AriaTextMoELayer", "JambaSparseMoeBlock")  # they rank what their linear router gives


@dataclass(frozen=True)
class Call:
    """One call of a router: its input [T, d], logits [T, E], correction bias [E], experts and weights [T, k]."""

    site: RouterSite
    router: nn.Module
    hidden: np.ndarray
    logits: np.ndarray
    bias: np.ndarray | None
    experts: np.ndarray
    weights: np.ndarray


@contextmanager
def calls_of(model: nn.Module, sites: list[RouterSite]) -> Iterator[list[Call]]:
    """Every call of the keyable routers of ``model`` within the block."""
    with ExitStack() as undo:
        yield _watched(model, sites, undo)


def _watched(model: nn.Module, sites: list[RouterSite], undo: ExitStack) -> list[Call]:
    seen: list[Call] = []
    for site in sites:
        module = model.get_submodule(site.path)
        given: dict[str, Any] = {}

        def record(router, args, kwargs, output, site=site, given=given):
            hidden = (args or list(kwargs.values()))[0].reshape(-1, site.hidden_size)
            if site.router_class == "LongcatFlashTopkRouter":
                given["logits"] = linear(hidden.float(), router.classifier.weight.float())
            logits, experts, weights = _layout(site, output, given)
            more = [value for value in [*args[1:], *kwargs.values()] if isinstance(value, Tensor) and value.dim() == 1]
            bias = more[0] if more else _bias(router)
            if getattr(router, "use_expert_bias", True) is False:
                bias = None
            arrays = (_array(part) for part in (hidden, logits, bias, experts, weights))
            seen.append(Call(site, router, *arrays))

        undo.callback(module.register_forward_hook(record, with_kwargs=True).remove)
        scorer = getattr(module, "router" if site.router_class in BLOCKS else "classifier", None)
        if scorer is not None:
            undo.callback(scorer.register_forward_hook(lambda m, a, out, g=given: g.update(logits=out)).remove)
        if site.router_class in BLOCKS:
            ranker = module.experts if site.router_class == "AriaTextMoELayer" else module

            def rank(*args, own=ranker.route_tokens_to_experts, given=given):
                given["choice"] = own(*args)
                return given["choice"]

            undo.enter_context(patch.object(ranker, "route_tokens_to_experts", rank))
    return seen


def _layout(site: RouterSite, output: Any, given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [T, E], experts [T, k], weights [T, k]) of a router's output."""
    if site.router_class in BLOCKS:
        weights, experts = sorted(given["choice"], key=lambda part: not part.is_floating_point())
        return given["logits"], experts, weights
    if site.router_class == "JetMoeTopKGating":
        order, _, gates, sizes, logits = output
        by_expert = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        experts, weights = torch.empty_like(by_expert), torch.empty_like(gates)
        experts[order], weights[order] = by_expert, gates
        return logits, experts.view(len(logits), -1), weights.view(len(logits), -1)
    if site.router_class == "Llama4Router":
        scores, logits = output
        experts = (scores > 0).nonzero()[:, 1].view(len(logits), -1)
        return logits, experts, scores.gather(-1, experts)
    if site.router_class == "SwitchTransformersTop1Router":
        mask, weight = sorted(output[:2], key=lambda part: part.is_floating_point())
        return given["logits"].flatten(0, -2), mask.flatten(0, -2).argmax(-1, keepdim=True), weight.flatten(0, -2)
    if len(output) == 2:  # LongCat's in older releases of transformers
        return given["logits"], output[1], output[0]
    logits, weights, experts = output[:3]
    if not logits.is_floating_point():  # Granite's in older releases
        logits, experts = experts, logits
    if site.router_class == "ZayaRouter":  # the skip expert, the last, was sent to expert 0 with no weight
        experts = torch.where(weights == 0, site.num_experts - 1, experts)
    return logits, experts, weights


def _bias(router: nn.Module) -> Tensor | None:
    for name, value in [*router.named_buffers(), *router.named_parameters()]:
        if name.rpartition(".")[2] in ("e_score_correction_bias", "balancing_biases"):
            return value.flatten()
    return None


def _array(value: Tensor | None) -> np.ndarray | None:
    if value is None:
        return None
    return (value.detach().double() if value.is_floating_point() else value).numpy()


def executed(model: nn.Module, sites: list[RouterSite]) -> dict[str, set[int]]:
    """Per site, the experts whose weights took part in the last backward: what really ran, seen inside the experts."""
    ran: dict[str, set[int]] = {}
    for site in sites:
        block = model.get_submodule(site.path if site.router_class in BLOCKS else site.path.rpartition(".")[0])
        ran[site.path] = set()
        for name, parameter in block.named_parameters():
            parts = name.split(".")
            if parts[0] == "router" or parameter.grad is None or "shared" in name:
                continue
            numbers = [int(part.rpartition("_")[2]) for part in parts if part.rpartition("_")[2].isdigit()]
            if numbers and "experts" in parts:
                ran[site.path] |= {numbers[0]} if parameter.grad.any() else set()
            elif parameter.dim() >= 2 and (
                "experts" in parts or parameter.dim() == 3 or site.router_class == "DbrxFFN"
            ):
                rows = parameter.grad.reshape(_experts(block, parameter), -1).any(-1)
                ran[site.path] |= set(rows.nonzero().flatten().tolist())
    return ran


def _experts(block: nn.Module, parameter: Tensor) -> int:
    if parameter.dim() == 3:
        return len(parameter)
    experts = block.experts
    return int(getattr(experts, "num_experts", None) or experts.moe_num_experts)
