"""Routes at the routers of one model in this process: natively, by a key, as a trace says, or as a function chooses.

Every router's computation becomes one operation of torch, ``okr::route``, so that no compiler and no graph looks into
it. The operation finds its router by number, because compiled code is kept and may not hold a router.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.discovery import RouterSite
from okr.engines.choice import Projector
from okr.engines.vllm.schemes import Native, Scheme
from okr.routing import Key, Setting
from okr.routing.accelerated import Accelerated, Rule, accelerate
from okr.routing.compiled import Selector, in_memory
from okr.routing.scores import TINY, products
from okr.routing.selection import route

Decision = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function from choice scores [T, E], the router's input [T, d] and the native selection [T, k] to the experts that
run [T, k]."""


class KeyedChoice:
    """Chooses by a key at one site. What it ranks are the choice scores of a scheme, which are logits or scores."""

    def __init__(self, site: RouterSite, key: Key, setting: Setting, device: torch.device, dtype: torch.dtype) -> None:
        self.project = Projector(site, key)
        self.rule: dict[str, Any] = {"top_k": site.top_k, **asdict(setting)}
        self.signs = self.project.signs.numpy()
        self.select = Selector(**self.rule)
        self.card: Accelerated | None = None
        if device.type != "cpu":
            self.card = accelerate(self.project.signs, Rule(**self.rule, log=False), device, dtype)
        self.project.on(device)

    def __call__(
        self,
        choice: Float[Tensor, "tokens experts"],
        hidden: Float[Tensor, "tokens hidden_size"],
        native: Callable[[], Tensor],
    ) -> Int[Tensor, "tokens top_k"]:
        """The experts that run. ``native`` gives the native selection [T, k]."""
        if self.card is not None and self.card.serves(choice):
            return self.card.choose(choice, hidden, native())[0]
        if not in_memory(choice):
            return route(choice, self.project(hidden), native(), **self.rule)[0]
        if len(choice) == 1 and hidden.dtype == torch.float32:
            found = self.select.one(choice.numpy(), hidden.numpy(), self.signs, False)
            return native() if found is None else torch.from_numpy(found)
        hidden = hidden.float()
        keys, norms = products(hidden, self.project.on(hidden.device)), None
        if not self.select.alone:
            norms = torch.linalg.vector_norm(hidden, dim=-1).clamp_min_(TINY).numpy()
        return self.among(choice, keys, norms, native)

    def among(
        self, choice: Tensor, keys: Tensor, norms: Any, native: Callable[[], Tensor]
    ) -> Int[Tensor, "tokens top_k"]:
        """The experts that run, by key scores [T, E] in memory that are still to be divided by ``norms`` [T] (None:
        they are divided)."""
        experts, opportunity, everywhere = self.select(choice.numpy(), keys.numpy(), norms)
        chosen = torch.from_numpy(experts)
        return chosen if everywhere else torch.where(torch.from_numpy(opportunity)[:, None], chosen, native())


class RoutedSite:
    """One router of vLLM: what it does natively, and who decides instead.

    Attributes:
        name: the name of the layer in vLLM.
        site: the same router as transformers' model has it.
        native: the router's own computation.
        scheme: how it ranks and weighs.
        key: what chooses by the key, or None.
        device, dtype: those of the router's input.
        decide: what chooses in place of the key, or None. It is set while a trace is replayed or a text is scored.
        record: gets the experts that ran [T, k], or None.
    """

    def __init__(
        self, name: str, site: RouterSite, native: Native, scheme: Scheme, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.name, self.site, self.native, self.scheme = name, site, native, scheme
        self.device, self.dtype = device, dtype
        self.key: KeyedChoice | None = None
        self.decide: Decision | None = None
        self.record: Callable[[Tensor], None] | None = None

    def route(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The weights, float32 [T, k], and experts, int32 [T, k], for router inputs [T, d] and logits [T, E]."""
        if self.decide is None and self.key is None:
            weights, experts = self.native(hidden, logits)
        else:
            weights, experts = self._chosen(hidden, logits)
        if self.record is not None:
            self.record(experts)
        return weights.float().contiguous(), experts.int().contiguous()

    def _chosen(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        choice = self.scheme.choice(logits)
        if self.decide is not None:
            experts = self.decide(choice, hidden, self.native(hidden, logits)[1].long())
            return self.scheme.weights(logits, experts), experts
        assert self.key is not None  # route() asked
        keyed = rows.keyed(len(logits), logits.device)
        if keyed is None:
            experts = self.key(choice, hidden, lambda: self.native(hidden, logits)[1].long())
            return self.scheme.weights(logits, experts), experts
        own_weights, own = self.native(hidden, logits)
        experts = torch.where(keyed[:, None], self.key(choice, hidden, own.long), own.long())
        weights = self.scheme.weights(logits, experts)
        return torch.where(keyed[:, None], weights, own_weights.float()), experts


class Rows:
    """Which rows of the present step a key may decide. The rows of a step belong to requests, one after the other.

    On a card the answer stands in a buffer of :meth:`on`, which a captured graph reads anew whenever it is replayed.
    """

    def __init__(self) -> None:
        self._native: list[tuple[int, int]] = []
        self._mask: Tensor | None = None

    def on(self, device: torch.device, most: int) -> None:
        """Keep the answer for up to ``most`` rows on ``device``."""
        self._mask = torch.ones(most, dtype=torch.bool, device=device)

    def leave(self, spans: list[tuple[int, int]]) -> None:
        """From now on the rows of ``spans``, each a start and an end, are routed natively."""
        if self._mask is not None and (spans or self._native):
            self._mask.fill_(True)
            for start, end in spans:
                self._mask[start:end] = False
        self._native = spans

    def keyed(self, count: int, device: torch.device) -> Bool[Tensor, " rows"] | None:
        """Which of ``count`` rows the key decides, or None for all."""
        if self._mask is not None:
            return self._mask[:count]
        if not self._native:
            return None
        keyed = torch.ones(count, dtype=torch.bool)
        for start, end in self._native:
            keyed[start:end] = False
        return keyed.to(device)


rows = Rows()
sites: dict[int, RoutedSite] = {}
"""The routed sites of this process by the number of their layer."""


def _route(hidden: Tensor, logits: Tensor, layer: int, top_k: int) -> tuple[Tensor, Tensor]:
    return sites[layer].route(hidden, logits)


def _shapes(hidden: Tensor, logits: Tensor, layer: int, top_k: int) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], top_k)
    return logits.new_empty(shape, dtype=torch.float32), logits.new_empty(shape, dtype=torch.int32)


_library = torch.library.Library("okr", "FRAGMENT")
_library.define("route(Tensor hidden, Tensor logits, int layer, int top_k) -> (Tensor, Tensor)")
_library.impl("route", _route, "CompositeExplicitAutograd")
_library._register_fake("route", _shapes)
