"""Forced-routing replay: a trace's tokens through the model, with the routing that the trace recorded.

Every site then sees the inputs it saw when the trace was made, whatever key made it (spec chapter REPLAY).
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from okr.attach.engine import attached, keyable_sites
from okr.attach.routings import Forced
from okr.discovery import RouterSite
from okr.discovery.adapters import plain_path
from okr.errors import InvalidTrace
from okr.traces import NOTHING_RAN, ModelIdentity, Trace

Observer = Callable[[RouterSite, Tensor, Tensor, Tensor], None]
"""Called per site with the site, its choice scores [T, E], its input [T, d] and the trace's experts [T, k]."""


_ANOTHER = {
    "structure": "another model",
    "routers": "another model, of the same structure with other router weights",
    "weights": "another model, of the same structure with other weights (an adapter on or off, or fine-tuning)",
}


@torch.no_grad()
def replay(model: nn.Module, trace: Trace, observe: Observer) -> None:
    """Run ``trace`` through ``model`` with its own routing, showing every site's scores and states to ``observe``.

    Raises InvalidTrace when the trace was made by another model.
    """
    sites = matching_sites(model, trace)
    device = input_device(model)
    routings = []
    for index, (site, recorded) in enumerate(zip(sites, trace.header.sites, strict=True)):
        experts = torch.from_numpy(np.ascontiguousarray(trace.site_experts(index))).to(device).long()
        routings.append(_forced(replace(site, path=recorded.path), experts, observe))  # wrapped or not, one verdict
    training = model.training
    model.eval()
    try:
        with attached(model, sites, routings, replay=True):
            model(**_inputs(model, trace, device))
    finally:
        model.train(training)


def matching_sites(model: nn.Module, trace: Trace) -> list[RouterSite]:
    """The sites of ``model`` that ``trace`` recorded, in the trace's order; InvalidTrace when they do not match."""
    sites = keyable_sites(model)
    difference = trace.header.model.difference(ModelIdentity.of(model, sites))
    if difference:
        raise InvalidTrace(
            f"this trace was made by {_ANOTHER[difference]}: {trace.header.model.class_name} with "
            f"{len(trace.header.sites)} sites; verify it with the model that made it"
        )
    by_path = {plain_path(model, site.path): site for site in sites}
    for recorded in trace.header.sites:
        site = by_path.get(recorded.path)
        if site is None or (site.num_experts, site.top_k) != (recorded.num_experts, recorded.top_k):
            raise InvalidTrace(f"this trace records {recorded.path}, which this model does not have as such")
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    for tokens in (trace.token_ids, trace.encoder_token_ids):
        if tokens is not None and (tokens >= vocabulary).any():
            raise InvalidTrace(f"token ids reach {int(tokens.max())}, but the model has {vocabulary} tokens")
    return [by_path[recorded.path] for recorded in trace.header.sites]


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its token ids."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return torch.device(device) if device is not None else embedding.weight.device


def _forced(site: RouterSite, experts: Tensor, observe: Observer) -> Forced:
    def seen(choice: Tensor, hidden: Tensor) -> None:
        observe(site, choice, hidden, experts.to(choice.device))

    return Forced(site, experts, (experts == NOTHING_RAN).all(-1), seen)


def _inputs(model: nn.Module, trace: Trace, device: torch.device) -> dict[str, Any]:
    def batch(tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(tokens.astype(np.int64)).to(device)[None]

    routed = batch(trace.token_ids[:-1])
    arguments: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        arguments["logits_to_keep"] = 1  # no logits are needed
    if trace.encoder_token_ids is None:
        return arguments | {"input_ids": routed}
    return arguments | {"input_ids": batch(trace.encoder_token_ids), "decoder_input_ids": routed}
