"""The two ways to run a model: under a key (watermark) and natively with the same traces (record)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

from torch import nn

from okr.discovery import RouterSite
from okr.engines.transformers.attaching import attached, keyable_sites
from okr.engines.transformers.generation import Generation, generate
from okr.engines.transformers.journal import Journals
from okr.engines.transformers.recording import Recording
from okr.engines.transformers.rotary import Scaling
from okr.engines.transformers.routings import Keyed, Native, Setting
from okr.routing import Key, check_setting
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName
from okr.traces import TraceHeader
from okr.traces.weights import WeightSample, revision


class Recorder:
    """A model that runs natively while its routing can be recorded: the control of a watermark."""

    key_id: str | None = None

    def __init__(self, model: nn.Module, sites: Sequence[RouterSite], setting: Setting | None = None) -> None:
        self.model = model
        self.sites = list(sites)
        self.setting = setting
        self.journals = Journals(len(self.sites))
        self._header: TraceHeader | None = None
        self._described: object = None  # the model as the header describes it

    def generate(self, inputs: Any = None, **arguments: Any) -> Generation:
        """``model.generate(inputs, **arguments)``, greedy or sampled, with one trace a returned sequence.

        Threads may generate side by side within one block. Raises UnsupportedGeneration for beam search, assisted
        decoding, guidance and ``inputs_embeds``.
        """
        if inputs is not None:
            arguments = {"inputs": inputs, **arguments}
        return generate(self.model, self.journals, self.header(), arguments)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record what calls of the model run in a block, for a decode loop of one's own or a model without
        ``generate``; ``Recording.traces`` then cuts it into traces.

        Other threads' calls, and generations within the block, are not part of it.
        """
        header = self.header()
        with self.journals.opened() as journal:
            yield Recording(self.model, journal, header)

    def header(self) -> TraceHeader:
        """What every trace of this session says of itself; made anew where the model's weights changed."""
        now = revision(self.model), WeightSample.of(self.model)  # the second: some write past the first (.data)
        if self._header is None or now != self._described:
            setting = asdict(self.setting) if self.setting else {}
            self._header = TraceHeader.describe(self.model, self.sites, key_id=self.key_id, **setting)
            self._described = now
        return self._header

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {len(self.sites)} sites, key_id={self.key_id})"


class Watermark(Recorder):
    """A model that runs under a key. ``sites`` are the keyed routers, ``key_id`` names the key."""

    def __init__(self, model: nn.Module, sites: Sequence[RouterSite], setting: Setting, key_id: str) -> None:
        super().__init__(model, sites, setting)
        self.key_id = key_id


def watermark(
    model: nn.Module, key: Key, *, epsilon: float, zone: ZoneName = "max", strength: float = math.inf
) -> AbstractContextManager[Watermark]:
    """Key every router of ``model`` that can be keyed, for the length of a ``with`` block.

    Inside it ``model.generate(...)`` and ``model(...)`` are watermarked; ``Watermark.generate`` also returns traces.
    After it, also after an exception, the model is exactly as before.

    Arguments: ``epsilon`` in the unit of each site (logits, or scores), 0 to inf; ``zone`` is ``max`` or ``boundary``;
    ``strength`` above 0, inf for the key alone to decide. Raises InvalidKey, InvalidSetting or RouterNotFound at once,
    UnsupportedRouter or AlreadyAttached where the block begins.
    """
    check_key(key)
    sites = keyable_sites(model)
    for site in sites:
        check_setting(site.top_k, site.num_experts, epsilon, zone, strength)
    return _watermarking(model, key, sites, Setting(float(epsilon), zone, float(strength)))


@contextmanager
def _watermarking(model: nn.Module, key: Key, sites: list[RouterSite], setting: Setting) -> Iterator[Watermark]:
    session = Watermark(model, sites, setting, key.id)
    routings = [Keyed(site, key, setting, session.journals.reporter(i)) for i, site in enumerate(sites)]
    with attached(model, sites, routings), Scaling(model).told(session.journals.hear):
        try:
            yield session
        finally:
            session.journals.end()


def record(model: nn.Module) -> AbstractContextManager[Recorder]:
    """Record ``model``'s native routing for the length of a ``with`` block; nothing it computes changes.

    Raises RouterNotFound at once, UnsupportedRouter or AlreadyAttached where the block begins.
    """
    return _recording(model, keyable_sites(model))


@contextmanager
def _recording(model: nn.Module, sites: list[RouterSite]) -> Iterator[Recorder]:
    session = Recorder(model, sites)
    routings = [Native(session.journals.reporter(i)) for i in range(len(sites))]
    with attached(model, sites, routings), Scaling(model).told(session.journals.hear):
        try:
            yield session
        finally:
            session.journals.end()
