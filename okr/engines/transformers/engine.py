"""Implements the engine for transformers models, and for any torch module whose routers can be found."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from okr.discovery import RouterSite, discover, input_device, keyable_sites
from okr.discovery.adapters import plain_path
from okr.engines.protocol import Chooser, Observer, Score, Text
from okr.engines.transformers.attaching import attached
from okr.engines.transformers.calling import (
    arguments_for,
    is_encoder_decoder,
    logits_of,
    positions,
    vocabulary,
)
from okr.engines.transformers.proof import Proof, prove_all
from okr.engines.transformers.replay import replay
from okr.engines.transformers.rotary import Scaling
from okr.engines.transformers.routings import Chosen, Keyed, Native
from okr.engines.transformers.session import Recorder, Watermark
from okr.engines.transformers.swapping import SiteRouting
from okr.routing import Key, Setting
from okr.routing.precision import autocast, lowered
from okr.traces import ModelIdentity, Trace
from okr.traces.weights import WeightSample, revision


class TransformersEngine:
    """A prepared torch model (:class:`okr.engines.protocol.Engine`). ``model`` is only changed within blocks.

    ``found`` are all routers, keyable or not. ``routers`` are the keyable sites by their paths in the model. ``sites``
    are the same by their paths in traces, which contain no wrapper and no adapter.

    Raises RouterNotFound if no router can be keyed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._look()

    def _look(self) -> None:
        """Find the routers, and forget earlier proofs and the identity."""
        self.found = discover(self.model)
        self.routers = keyable_sites(self.model, self.found)
        named = ((site, plain_path(self.model, site.path)) for site in self.routers)
        self.sites = [site if site.path == path else replace(site, path=path) for site, path in named]
        self._seen = self._state()
        self._proofs: list[Proof] | None = None
        self._identity: tuple[Any, ModelIdentity] | None = None

    def _weights(self) -> Any:
        """A value that changes when weights, devices or adapters change."""
        return revision(self.model), WeightSample.of(self.model)  # a write to .data changes the sample alone

    def _state(self) -> Any:
        """The value of :meth:`_weights` with the hooks and instance methods of the routers, or None for a router that
        is gone."""
        modules = dict(self.model.named_modules(remove_duplicate=False))
        routers = [modules.get(site.path) for site in self.routers]
        return self._weights(), [
            m and (id(m), m.__dict__.get("forward"), *m._forward_hooks, *m._forward_pre_hooks) for m in routers
        ]

    def refresh(self) -> None:
        """Find the routers anew if the model changed. Every method that runs the model does this first."""
        if self._state() != self._seen:
            self._look()

    @property
    def name(self) -> str:
        """The class name of the model."""
        return type(self.model).__name__

    @property
    def dtype(self) -> str:
        """The dtype of the weights, such as ``float32``."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def encoder_decoder(self) -> bool:
        """Whether the model has an encoder, which reads a source."""
        return is_encoder_decoder(self.model)

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the model embeds, or None if it does not say."""
        return vocabulary(self.model)

    @property
    def positions(self) -> int | None:
        """How many positions a decoder-only model has, or None if it does not say or has an encoder."""
        return positions(self.model)

    def identity(self) -> ModelIdentity:
        """The identity of the model as it is now. It is computed anew if weights changed."""
        now = self._weights()
        if self._identity is None or self._identity[0] != now:
            self._identity = now, ModelIdentity.of(self.model, self.routers)
        return self._identity[1]

    def proofs(self) -> list[Proof]:
        """A proof of each router, made once. Raises UnsupportedRouter for a router that cannot be proven."""
        if self._proofs is None:
            self._proofs = prove_all(self.model, self.routers)
        return self._proofs

    def routed(self, routings: Sequence[SiteRouting | None], *, replay: bool = False) -> AbstractContextManager[None]:
        """Run the model with ``routings[i]`` at ``routers[i]`` within a block. None leaves a router as it is."""
        used = [place for place, routing in enumerate(routings) if routing is not None]
        return attached(
            self.model,
            [self.routers[place] for place in used],
            [routing for routing in routings if routing is not None],
            lambda: [self.proofs()[place] for place in used],
            replay=replay,
        )

    def keyed(self, key: Key, setting: Setting) -> AbstractContextManager[Watermark]:
        """Run the model under ``key`` within a ``with`` block (:func:`okr.watermark`)."""
        self.refresh()
        return self._running(Watermark(self, setting, key.id), lambda site, report: Keyed(site, key, setting, report))

    def recorded(self) -> AbstractContextManager[Recorder]:
        """Run the model natively within a ``with`` block and record its routing (:func:`okr.record`)."""
        self.refresh()
        return self._running(Recorder(self), lambda site, report: Native(report))

    @contextmanager
    def _running(self, session: Any, routing: Callable[[RouterSite, Any], SiteRouting]) -> Iterator[Any]:
        """Run the model with ``routing(site, report)`` at every router, and give ``session``."""
        routings = [routing(site, session.journals.reporter(i)) for i, site in enumerate(self.routers)]
        with self.routed(routings), Scaling(self.model).told(session.journals.hear):
            try:
                yield session
            finally:
                session.journals.end()

    def replay(self, trace: Trace, observe: Observer) -> None:
        """Run ``trace`` with its own routing and call ``observe`` once for each site (spec chapter REPLAY). Raises
        InvalidTrace if another model made it."""
        self.refresh()
        replay(self, trace, observe)

    @contextmanager
    def scoring(self, choosers: Sequence[Chooser] | None) -> Iterator[Score]:
        """Score texts in evaluation mode within a ``with`` block. ``choosers[i]`` chooses at ``sites[i]``; with None
        the model runs natively."""
        self.refresh()
        training = self.model.training
        self.model.eval()
        try:
            if choosers is None:
                yield self.log_p
                return
            with self.routed([Chosen(*pair) for pair in zip(self.sites, choosers, strict=True)]):
                yield self.log_p
        finally:
            self.model.train(training)

    @torch.no_grad()
    def log_p(self, text: Text, rows: int, temperature: float) -> Float[Tensor, "rows tokens"]:
        """The log probabilities that :class:`okr.engines.protocol.Score` describes, under the autocast of the
        caller."""
        device = input_device(self.model)
        tokens = text.tokens.to(device)
        source = None if text.source is None else text.source.to(device).expand(rows, -1)
        arguments = arguments_for(self.model, tokens[:-1].expand(rows, -1), source, use_cache=False)
        lower = lowered(tokens)  # the caller's autocast, but not its cache of lowered weights
        with Scaling(self.model).afresh(), autocast(device.type, lower):  # independent of what the model saw before
            logits = logits_of(self.model(**arguments))[:, text.prompt_length - 1 :]
        targets = tokens[text.prompt_length :].to(logits.device).expand(rows, -1)
        logits = logits.float() if temperature == 1 else logits.float() / temperature
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return -loss.view(rows, -1).double().cpu()
