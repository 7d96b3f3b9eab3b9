"""Replays a trace: its tokens run through the model with the routing that the trace recorded.

Every site then sees the input that it had when the trace was made, whatever key made it (spec chapter REPLAY).
"""

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from okr.discovery import RouterSite, input_device
from okr.engines.matching import matching_sites
from okr.engines.protocol import Observer
from okr.engines.transformers.calling import accepted, arguments_for, name_of_tokens
from okr.engines.transformers.rotary import Ahead, Scaling
from okr.engines.transformers.routings import Forced
from okr.errors import InvalidTrace
from okr.routing.precision import autocast
from okr.traces import NOTHING_RAN, Trace, unfolded

if TYPE_CHECKING:
    from okr.engines.transformers.engine import TransformersEngine


@torch.no_grad()
def replay(engine: "TransformersEngine", trace: Trace, observe: Observer) -> None:
    """Run ``trace`` through the engine's model with its own routing. ``observe`` gets every site's scores and states.

    All tokens run in one pass. The exception is a trace with passes, if the model's rotary scaling changes with the
    length: then tokens run in these passes, as far as their scaling differs. The replay has the autocast under which
    the trace was made, whatever autocast surrounds the call. Raises InvalidTrace if another model made the trace.
    """
    model, sites = engine.model, matching_sites(engine, trace)
    device = input_device(model)
    scaling = Scaling(model)
    passes = _passes(trace, scaling)
    shown = observe if len(passes) < 2 else _Gathered(observe, len(trace.token_ids) - 1)
    routings = {}
    for index, site in enumerate(sites):
        experts = torch.from_numpy(np.ascontiguousarray(trace.site_experts(index))).to(device).long()
        routings[site.path] = _forced(site, experts, shown)
    training = model.training
    model.eval()
    try:
        lower = None if trace.header.autocast is None else getattr(torch, trace.header.autocast)
        with (
            scaling.afresh() as ahead,
            engine.routed([routings.get(site.path) for site in engine.sites], replay=True),
            autocast(device.type, lower),
        ):
            _run(model, _inputs(model, trace, device), list(routings.values()), passes, ahead)
    finally:
        model.train(training)


class _Gathered:
    """An observer that collects the passes of each site, and calls ``observe`` when all ``tokens`` of the site were
    seen."""

    def __init__(self, observe: Observer, tokens: int) -> None:
        self.observe, self.tokens = observe, tokens
        self.parts: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, site: RouterSite, choice: Tensor, hidden: Tensor, experts: Tensor) -> None:
        parts = self.parts.setdefault(site.path, [])
        parts.append((choice, hidden))
        if sum(len(part[0]) for part in parts) == self.tokens:
            choice, hidden = (torch.cat(kind) for kind in zip(*self.parts.pop(site.path), strict=True))
            self.observe(site, choice, hidden, experts)


def _passes(trace: Trace, scaling: Scaling) -> list[tuple[int, int]]:
    """The passes to replay, each as its number of tokens and the length to scale to. Passes with the same scaling are
    joined. Raises InvalidTrace if the trace has passes and the model does not scale by length."""
    if trace.passes is None:
        return []
    if not scaling:
        raise InvalidTrace(
            "this trace was made by a model whose rotary scaling changes with the length, and this one's does not: "
            "load the model with the rope settings that it had then"
        )
    reached = 0
    found: list[tuple[int, int]] = []
    for tokens, length in unfolded(trace.passes):
        reached = max(reached, length) if not tokens else reached
        length = max(reached, length)
        if found and tokens and scaling.stage(length) == scaling.stage(found[-1][1]):
            found[-1] = (found[-1][0] + tokens, length)
        elif tokens:
            found.append((tokens, length))
    return found


def _run(
    model: nn.Module, arguments: dict[str, Any], routings: list[Forced], passes: list[tuple[int, int]], ahead: Ahead
) -> None:
    """Run the forward passes of a replay, or a single one if ``passes`` is empty."""
    if not passes:
        model(**arguments)
        return
    whole: list[tuple[Tensor, Any]] = [(routing.experts, routing.dropped) for routing in routings]
    cache, start, name = None, 0, name_of_tokens(model)
    for tokens, length in passes:
        end = start + tokens
        ahead.tokens = length - end
        given = {**arguments, name: arguments[name][:, start:end]}
        if len(passes) > 1:
            given |= accepted(model, use_cache=True, past_key_values=cache)
        for routing, (experts, dropped) in zip(routings, whole, strict=True):
            routing.experts, routing.dropped = experts[start:end], dropped[start:end]
        cache = getattr(model(**given), "past_key_values", None)
        if cache is None and end < len(whole[0][0]):
            raise InvalidTrace("this trace was made with a cache, and this model returns none to replay it with")
        start = end


def _forced(site: RouterSite, experts: Tensor, observe: Observer) -> Forced:
    """The routing that forces ``experts`` [T, k] at ``site``."""

    def seen(choice: Tensor, hidden: Tensor) -> None:
        observe(site, choice, hidden, experts.to(choice.device))

    return Forced(site, experts, (experts == NOTHING_RAN).all(-1), seen)


def _inputs(model: nn.Module, trace: Trace, device: torch.device) -> dict[str, Any]:
    """The arguments of a forward over the trace's tokens."""

    def batch(tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(tokens.astype(np.int64)).to(device)[None]

    source = None if trace.encoder_token_ids is None else batch(trace.encoder_token_ids)
    wishes: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        wishes["logits_to_keep"] = 1  # no logits are needed
    return arguments_for(model, batch(trace.token_ids[:-1]), source, **wishes)
