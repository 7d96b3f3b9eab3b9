"""Defines the routings that a site may have: by a key, native, as a trace says, or as a function chooses."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from okr.discovery import RouterSite
from okr.engines.choice import EVERY, Own, Projector, choice_scores, filled
from okr.engines.protocol import Chooser
from okr.routing import Key, Setting
from okr.routing.accelerated import Accelerated, Rule, accelerate
from okr.routing.compiled import Selector, in_memory
from okr.routing.scores import TINY, products
from okr.routing.selection import route

Report = Callable[[Callable[[], Tensor]], None]
"""A function that is called at every forward of a router, with a function that returns the experts that ran [T, k]."""


class Native:
    """Routes natively and reports the experts that ran. The methods are those of
    :class:`okr.engines.transformers.swapping.SiteRouting`."""

    dropped: Tensor | None = None

    def __init__(self, report: Report | None = None) -> None:
        self.report = report

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        pass

    def gate(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        return (linear(hidden, weight) if dtype is None else linear(hidden.type(dtype), weight.type(dtype))), None

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return native(EVERY)

    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        chosen = self.choose(scores, hidden, native)
        return chosen, scores.gather(-1, chosen)


class Keyed(Native):
    """Routes by a key and reports the experts that ran."""

    def __init__(self, site: RouterSite, key: Key, setting: Setting, report: Report | None = None) -> None:
        super().__init__(report)
        self.site, self.project = site, Projector(site, key)
        self.rule: dict[str, Any] = {"top_k": site.top_k, **asdict(setting)}
        self.signs = self.project.signs.numpy()
        self.log = site.ranks == "probabilities"
        self.select = Selector(**self.rule)
        self.card: Accelerated | None = None

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        if device.type != "cpu":
            rule = Rule(**self.rule, log=self.log)
            self.card = accelerate(self.project.signs, rule, device, dtype)
            if self.card is None:
                self.project.on(device)

    def gate(self, hidden: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        if self.card is None or not self.card.serves_gate(hidden, weight, dtype or weight.dtype):
            return super().gate(hidden, weight, dtype)
        return self.card.gate(hidden, weight, dtype or weight.dtype)

    def weigh(self, scores: Tensor, hidden: Tensor, native: Own, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.card is not None and not scores.requires_grad and self.card.serves(scores):
            return self.card.choose(scores, hidden, native(EVERY), keys)
        chosen = self.choose(scores, hidden, native)
        return chosen, scores.gather(-1, chosen)

    def choose(
        self, scores: Float[Tensor, "tokens experts"], hidden: Float[Tensor, "tokens hidden_size"], native: Own
    ) -> Int[Tensor, "tokens top_k"]:
        if torch.is_grad_enabled():  # a choice has no gradient
            scores, hidden = scores.detach(), hidden.detach()
        if self.card is not None and self.card.serves(scores):
            return self.card.choose(scores, hidden, native(EVERY))[0]
        if len(scores) == 1 and in_memory(scores) and hidden.dtype == torch.float32:
            chosen = self.select.one(scores.numpy(), hidden.numpy(), self.signs, self.log)
            return native(EVERY) if chosen is None else torch.from_numpy(chosen)
        choice = choice_scores(self.site, scores)
        if not in_memory(choice):
            return route(choice, self.project(hidden), native(EVERY), **self.rule)[0]
        hidden = hidden.float()
        keys, norms = products(hidden, self.project.on(hidden.device)), None
        if not self.select.alone:
            norms = torch.linalg.vector_norm(hidden, dim=-1).clamp_min_(TINY).numpy()
        return filled(self.select(choice.numpy(), keys.numpy(), norms), native)


class Forced(Native):
    """Routes as ``experts`` [T, k] says, natively where it is negative. It calls ``observe`` with the choice scores
    [T, E] and the router's input [T, d]."""

    def __init__(
        self,
        site: RouterSite,
        experts: Int[Tensor, "tokens top_k"],
        dropped: Tensor,
        observe: Callable[[Tensor, Tensor], None],
    ) -> None:
        super().__init__()
        self.site, self.experts, self.dropped, self.observe = site, experts, dropped, observe  # type: ignore[assignment]

    def choose(
        self, scores: Float[Tensor, "tokens experts"], hidden: Float[Tensor, "tokens hidden_size"], native: Own
    ) -> Int[Tensor, "tokens top_k"]:
        self.observe(choice_scores(self.site, scores), hidden)
        own = native(EVERY)
        experts = self.experts.to(own.device)
        return torch.where(experts < 0, own, experts)


class Chosen(Native):
    """Routes as ``chooser`` says (:data:`okr.engines.protocol.Chooser`)."""

    def __init__(self, site: RouterSite, chooser: Chooser) -> None:
        super().__init__()
        self.site, self.chooser = site, chooser

    def choose(
        self, scores: Float[Tensor, "tokens experts"], hidden: Float[Tensor, "tokens hidden_size"], native: Own
    ) -> Int[Tensor, "tokens top_k"]:
        return self.chooser(choice_scores(self.site, scores), hidden, native)
