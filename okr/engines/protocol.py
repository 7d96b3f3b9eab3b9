"""Defines the engine: what detection, attribution and the suites ask of whatever runs a model.

An engine is a model whose routers were found and proven once. It runs the model under a key, natively with its routing
recorded, with the routing of a trace, or with a routing that the caller chooses.
:class:`okr.engines.transformers.TransformersEngine` is the engine for transformers; :func:`okr.prepare` makes it.
Tensors are torch's, on any device.
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
"""A function that is called once for each site, with the site, its choice scores [T, E], its input [T, d] and the
trace's experts [T, k]."""

Chooser = Callable[[Tensor, Tensor, Own], Tensor]
"""A function from choice scores [T, E], the router's input [T, d] and the native selection to the experts that run
[T, k]."""


@dataclass(frozen=True)
class Text:
    """Tokens to judge: ``tokens``, int64 [n]. The first ``prompt_length`` of them (at least 1) are given and not
    scored. ``source``, int64 [m], is what the encoder reads, or None for a decoder-only model."""

    tokens: Int[Tensor, " tokens"]
    prompt_length: int
    source: Int[Tensor, " source"] | None

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.prompt_length


class Score(Protocol):
    """The function that :meth:`Engine.scoring` gives; it may be called within the block."""

    def __call__(self, text: Text, rows: int, temperature: float) -> Float[Tensor, "rows tokens"]:
        """The log probability of every scored token, in nats: float64 [rows, scored tokens] on the CPU.

        The batch has the text in each of ``rows`` rows. Routers see the tokens of one row after those of another.
        Logits are divided by ``temperature`` first.
        """


class Session(Protocol):
    """A model under a key, or recorded: what the ``with`` blocks of :func:`okr.watermark` and :func:`okr.record` give.
    ``key_id`` is None if it runs natively."""

    key_id: str | None

    def generate(self, inputs: Any = None, **arguments: Any) -> Any:
        """Generate as the model itself does. ``traces`` of the result holds one trace for each returned sequence."""


@runtime_checkable
class Engine(Protocol):
    """A prepared model: its routers are found, proven and identified.

    An engine notices when the weights, the device or the adapters of its model change. It then finds the routers anew.
    """

    @property
    def name(self) -> str:
        """The class name of the model."""

    @property
    def sites(self) -> Sequence[RouterSite]:
        """The keyable sites in the order of the model. Their paths are those that traces use."""

    @property
    def dtype(self) -> str:
        """The dtype of the weights, such as ``float32``."""

    @property
    def encoder_decoder(self) -> bool:
        """Whether the model has an encoder, which reads a source."""

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the model embeds, or None if it does not say."""

    @property
    def positions(self) -> int | None:
        """How many positions a decoder-only model has, or None if it does not say or has an encoder."""

    def identity(self) -> ModelIdentity:
        """The identity of the model, as a trace's header holds it."""

    def keyed(self, key: Key, setting: Setting) -> AbstractContextManager[Session]:
        """Run the model under ``key`` within a ``with`` block."""

    def recorded(self) -> AbstractContextManager[Session]:
        """Run the model natively within a ``with`` block and record its routing."""

    def replay(self, trace: Trace, observe: Observer) -> None:
        """Run the tokens of ``trace`` with the routing that it recorded, and call ``observe`` once for each site.

        Raises InvalidTrace if another model made the trace (:func:`okr.engines.matching.matching_sites`).
        """

    def scoring(self, choosers: Sequence[Chooser] | None) -> AbstractContextManager[Score]:
        """Score texts within a ``with`` block. ``choosers[i]`` chooses the experts at ``sites[i]``; with None the model
        runs natively."""
