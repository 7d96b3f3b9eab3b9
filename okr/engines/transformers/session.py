"""Defines what a ``with`` block of an engine gives: a model under a key, or one that runs natively and is recorded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from okr.engines.transformers.generation import Generation, generate
from okr.engines.transformers.journal import Journals
from okr.engines.transformers.recording import Recording
from okr.routing import Setting
from okr.traces import TraceHeader

if TYPE_CHECKING:
    from okr.engines.transformers.engine import TransformersEngine


class Recorder:
    """A model that runs natively and can be recorded: the control of a watermark."""

    key_id: str | None = None

    def __init__(self, engine: "TransformersEngine", setting: Setting | None = None) -> None:
        self.engine = engine
        self.model, self.sites = engine.model, list(engine.routers)
        self.setting = setting
        self.journals = Journals(len(self.sites))

    def generate(self, inputs: Any = None, **arguments: Any) -> Generation:
        """Run ``model.generate(inputs, **arguments)``, greedy or sampled, and return one trace for each returned
        sequence.

        Several threads may generate within one block. Raises UnsupportedGeneration for beam search, assisted decoding,
        guidance, ``inputs_embeds`` and other ways of generating that cannot be traced.
        """
        if inputs is not None:
            arguments = {"inputs": inputs, **arguments}
        return generate(self.model, self.journals, self.header(), arguments)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record the calls of the model within the block, for your own loop or for a model without ``generate``.
        ``Recording.traces`` makes traces of them.

        Calls of other threads, and generations within the block, are not recorded in it.
        """
        header = self.header()
        with self.journals.opened() as journal:
            yield Recording(self.model, journal, header)

    def header(self) -> TraceHeader:
        """The header of a trace that is made now: it names the model with its present weights."""
        setting = asdict(self.setting) if self.setting else {}
        return TraceHeader.describe(
            self.model, self.sites, identity=self.engine.identity(), key_id=self.key_id, **setting
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {len(self.sites)} sites, key_id={self.key_id})"


class Watermark(Recorder):
    """A model that runs under a key. ``sites`` are the keyed routers and ``key_id`` is the key's public name."""

    def __init__(self, engine: "TransformersEngine", setting: Setting, key_id: str) -> None:
        super().__init__(engine, setting)
        self.key_id = key_id
