"""Chapter WEIGHT: routers as other releases have them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..subject import Subject
from . import check
from .weight_modes import released_with, require_formula


def _normalised(scores: Any, chosen: Any, lowered: bool) -> Any:
    weights = scores.gather(-1, chosen)
    return weights / weights.sum(-1, keepdim=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that a router runs without its fast path."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@check("OKR-WEIGHT-002")
def attributes_of_other_releases_are_followed(subject: Subject) -> None:
    """A release that calls the number of experts that run otherwise, where some tokens run their native selection."""
    import torch

    from .. import system
    from ..system import okr

    def forward(self: Any, hidden: Any) -> Any:
        logits = torch.nn.functional.linear(hidden.reshape(-1, self.hidden_dim), self.weight)
        scores = logits.float().softmax(-1)
        chosen = scores.topk(self.kept, -1).indices
        return logits, _normalised(scores, chosen, False), chosen

    states = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(6))
    model = released_with(system.copied(system.softmax_model()), _normalised)
    for layer in model.model.layers:
        router = layer.mlp.gate
        type(router).forward, router.kept = forward, router.__dict__.pop("top_k")
    name = "another name of an attribute"
    with (
        _quiet(),
        system.served(name),
        torch.no_grad(),
        okr.watermark(model, system.key(), epsilon=0.3, zone="boundary"),
    ):
        require_formula(model, _normalised, states, False, name)
