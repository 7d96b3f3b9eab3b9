"""What a ``with`` block of an engine gives: a model under a key, or recorded natively with the same traces."""

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
    """A model that runs natively while its routing can be recorded: the control of a watermark."""

    key_id: str | None = None

    def __init__(self, engine: "TransformersEngine", setting: Setting | None = None) -> None:
        self.engine = engine
        self.model, self.sites = engine.model, list(engine.routers)
        self.setting = setting
        self.journals = Journals(len(self.sites))

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
        """What every trace of this session says of itself, with the model's weights as they are now."""
        setting = asdict(self.setting) if self.setting else {}
        return TraceHeader.describe(
            self.model, self.sites, identity=self.engine.identity(), key_id=self.key_id, **setting
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {len(self.sites)} sites, key_id={self.key_id})"


class Watermark(Recorder):
    """A model that runs under a key. ``sites`` are the keyed routers, ``key_id`` names the key."""

    def __init__(self, engine: "TransformersEngine", setting: Setting, key_id: str) -> None:
        super().__init__(engine, setting)
        self.key_id = key_id
