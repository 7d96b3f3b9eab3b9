"""What detection, attribution and the suites ask of whatever runs a model: an engine.

An engine is a model found and proven once. It runs the model under a key, natively with its routing recorded, with the
routing that a trace recorded, or with a routing that the caller chooses. The engine for transformers is
:class:`okr.engines.transformers.TransformersEngine`; :func:`okr.prepare` makes it. Tensors are torch's, on any device.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from okr.discovery import RouterSite
from okr.engines.choice import Own
from okr.routing import Key, Setting
from okr.traces import ModelIdentity, Trace

Observer = Callable[[RouterSite, Tensor, Tensor, Tensor], None]
"""Called once a site: the site, its choice scores [T, E], its input [T, d] and the trace's experts [T, k]."""

Chooser = Callable[[Tensor, Tensor, Own], Tensor]
"""(choice scores [T, E], the router's input [T, d], the family's own choice) -> the experts to run [T, k]."""


@dataclass(frozen=True)
class Text:
    """Tokens to be judged: int64 [n]; those before ``prompt_length`` (at least 1) are given, not scored. ``source`` is
    what an encoder reads, int64 [m], None for decoder-only models."""

    tokens: Int[Tensor, " tokens"]
    prompt_length: int
    source: Int[Tensor, " source"] | None

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.prompt_length


class Score(Protocol):
    """What :meth:`Engine.scoring` gives for the length of its block."""

    def __call__(self, text: Text, rows: int, temperature: float) -> Float[Tensor, "rows tokens"]:
        """log p of the scored tokens, in nats, with the text repeated in ``rows`` rows: float64 on the CPU.

        Routers see the rows' tokens one row after another. Logits are divided by ``temperature`` first.
        """


class Session(Protocol):
    """A model under a key, or recorded: what :func:`okr.watermark` and :func:`okr.record` give."""

    key_id: str | None

    def generate(self, inputs: Any = None, **arguments: Any) -> Any:
        """Generate as the engine's own model does; ``traces`` of the result has one trace a returned sequence."""


@runtime_checkable
class Engine(Protocol):
    """A model, prepared: its routers found, proven and identified.

    An engine notices by itself that its model's weights, device or adapters changed, and then looks anew.
    """

    @property
    def name(self) -> str:
        """The class of the model."""

    @property
    def sites(self) -> Sequence[RouterSite]:
        """The keyable sites in the model's order, by the paths that traces name them by."""

    @property
    def dtype(self) -> str:
        """The dtype of the weights, such as ``float32``."""

    @property
    def encoder_decoder(self) -> bool:
        """Whether the model reads a source before it writes."""

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the model embeds; None where it does not say."""

    @property
    def positions(self) -> int | None:
        """How many positions a decoder-only model has; None where it does not say."""

    def identity(self) -> ModelIdentity:
        """Which model this is, as a trace's header says it."""

    def keyed(self, key: Key, setting: Setting) -> AbstractContextManager[Session]:
        """The model under ``key`` for the length of a ``with`` block."""

    def recorded(self) -> AbstractContextManager[Session]:
        """The model as it is, its routing recorded, for the length of a ``with`` block."""

    def replay(self, trace: Trace, observe: Observer) -> None:
        """Run ``trace``'s tokens with the routing that it recorded and show every site to ``observe``, once each.

        Raises InvalidTrace where the trace is another model's (:func:`okr.engines.matching.matching_sites`).
        """

    def scoring(self, choosers: Sequence[Chooser] | None) -> AbstractContextManager[Score]:
        """Score texts for the length of a ``with`` block, with ``choosers[i]`` at ``sites[i]``; None: natively."""
