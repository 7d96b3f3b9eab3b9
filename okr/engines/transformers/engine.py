"""The engine for transformers models, and for any torch module whose routers can be found."""

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
    """A torch model, prepared (:class:`okr.engines.protocol.Engine`): ``model`` itself is never changed for longer
    than a block. ``routers``: the keyable sites by their paths in the model; ``sites``: by the paths in traces, which
    name no wrapper and no adapter. ``found``: every router, those that cannot be keyed too.

    Raises RouterNotFound where no router can be keyed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._look()

    def _look(self) -> None:
        """Find the routers; what was proven and identified before counts no longer."""
        self.found = discover(self.model)
        self.routers = keyable_sites(self.model, self.found)
        named = ((site, plain_path(self.model, site.path)) for site in self.routers)
        self.sites = [site if site.path == path else replace(site, path=path) for site, path in named]
        self._seen = self._state()
        self._proofs: list[Proof] | None = None
        self._identity: tuple[Any, ModelIdentity] | None = None

    def _weights(self) -> Any:
        """What is another value once weights, devices or adapters changed."""
        return revision(self.model), WeightSample.of(self.model)  # the sample: some write past revisions (.data)

    def _state(self) -> Any:
        """The same, and the hooks and instance methods of the routers; None for a router that is gone."""
        modules = dict(self.model.named_modules(remove_duplicate=False))
        routers = [modules.get(site.path) for site in self.routers]
        return self._weights(), [
            m and (id(m), m.__dict__.get("forward"), *m._forward_hooks, *m._forward_pre_hooks) for m in routers
        ]

    def refresh(self) -> None:
        """Look anew where the model changed since it was prepared. Every method does so first."""
        if self._state() != self._seen:
            self._look()

    @property
    def name(self) -> str:
        """The class of the model."""
        return type(self.model).__name__

    @property
    def dtype(self) -> str:
        """The dtype of the weights, such as ``float32``."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def encoder_decoder(self) -> bool:
        """Whether the model reads a source before it writes."""
        return is_encoder_decoder(self.model)

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the model embeds; None where it does not say."""
        return vocabulary(self.model)

    @property
    def positions(self) -> int | None:
        """How many positions a decoder-only model has; None where it does not say."""
        return positions(self.model)

    def identity(self) -> ModelIdentity:
        """Which model this is now: computed anew where weights changed."""
        now = self._weights()
        if self._identity is None or self._identity[0] != now:
            self._identity = now, ModelIdentity.of(self.model, self.routers)
        return self._identity[1]

    def proofs(self) -> list[Proof]:
        """A proof a router, made once. Raises UnsupportedRouter."""
        if self._proofs is None:
            self._proofs = prove_all(self.model, self.routers)
        return self._proofs

    def routed(self, routings: Sequence[SiteRouting | None], *, replay: bool = False) -> AbstractContextManager[None]:
        """The model with ``routings[i]`` at ``routers[i]`` for the length of a block; None leaves a router alone."""
        used = [place for place, routing in enumerate(routings) if routing is not None]
        return attached(
            self.model,
            [self.routers[place] for place in used],
            [routing for routing in routings if routing is not None],
            lambda: [self.proofs()[place] for place in used],
            replay=replay,
        )

    def keyed(self, key: Key, setting: Setting) -> AbstractContextManager[Watermark]:
        """The model under ``key`` for the length of a ``with`` block (:func:`okr.watermark`)."""
        self.refresh()
        return self._running(Watermark(self, setting, key.id), lambda site, report: Keyed(site, key, setting, report))

    def recorded(self) -> AbstractContextManager[Recorder]:
        """The model as it is, its routing recorded, for the length of a ``with`` block (:func:`okr.record`)."""
        self.refresh()
        return self._running(Recorder(self), lambda site, report: Native(report))

    @contextmanager
    def _running(self, session: Any, routing: Callable[[RouterSite, Any], SiteRouting]) -> Iterator[Any]:
        routings = [routing(site, session.journals.reporter(i)) for i, site in enumerate(self.routers)]
        with self.routed(routings), Scaling(self.model).told(session.journals.hear):
            try:
                yield session
            finally:
                session.journals.end()

    def replay(self, trace: Trace, observe: Observer) -> None:
        """Run ``trace`` with its own routing, showing every site to ``observe`` once (spec chapter REPLAY)."""
        self.refresh()
        replay(self, trace, observe)

    @contextmanager
    def scoring(self, choosers: Sequence[Chooser] | None) -> Iterator[Score]:
        """Score texts in evaluation mode with ``choosers[i]`` at ``sites[i]``; None: natively."""
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
        device = input_device(self.model)
        tokens = text.tokens.to(device)
        source = None if text.source is None else text.source.to(device).expand(rows, -1)
        arguments = arguments_for(self.model, tokens[:-1].expand(rows, -1), source, use_cache=False)
        lower = lowered(tokens)  # as the caller has it, its cache of lowered weights left alone
        with Scaling(self.model).afresh(), autocast(device.type, lower):  # whatever the model saw before
            logits = logits_of(self.model(**arguments))[:, text.prompt_length - 1 :]
        targets = tokens[text.prompt_length :].to(logits.device).expand(rows, -1)
        logits = logits.float() if temperature == 1 else logits.float() / temperature
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return -loss.view(rows, -1).double().cpu()
