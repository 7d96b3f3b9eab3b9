"""The three things an attached site may do: route by a key, route natively, or route as a trace says."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, Int64
from torch import Tensor
from torch.nn.functional import linear

from okr.discovery import RouterSite
from okr.engines.transformers.fused import EVERY, Own
from okr.routing import Key, key_scores
from okr.routing.accelerated import Accelerated, Rule, accelerate
from okr.routing.compiled import Selector, in_memory
from okr.routing.scores import TINY, products
from okr.routing.selection import route
from okr.routing.settings import ZoneName

Report = Callable[[Callable[[], Tensor]], None]
"""Called at every call of a router with what says which experts ran [T, k]."""


@dataclass(frozen=True)
class Setting:
    """How the key decides: the zone, its width epsilon (in the site's unit) and the strength."""

    epsilon: float
    zone: ZoneName = "max"
    strength: float = math.inf


def choice_scores(site: RouterSite, scores: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
    """c: what the family ranks, in float32 or wider; logarithms where it ranks softmax probabilities."""
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    return scores.log() if site.ranks == "probabilities" else scores


class Projector:
    """The projection of one site under one key, as a tensor on whichever device asks (made once a device)."""

    def __init__(self, site: RouterSite, key: Key) -> None:
        self._signs = torch.from_numpy(
            key.projection(
                stack=site.stack, layer=site.layer, hidden_size=site.hidden_size, num_experts=site.num_experts
            )
        )
        self._on: dict[torch.device, Tensor] = {}

    def __call__(self, hidden: Float[Tensor, "tokens hidden_size"]) -> Float[Tensor, "tokens experts"]:
        """The key scores g of router inputs."""
        return key_scores(hidden, self.on(hidden.device))

    @property
    def signs(self) -> Int8[Tensor, "hidden_size experts"]:
        """The projection as it is in the key, on the CPU."""
        return self._signs

    def on(self, device: torch.device) -> Float[Tensor, "hidden_size experts"]:
        """The projection on ``device``, float32."""
        projection = self._on.get(device)
        if projection is None:
            rows = self._signs.t().to(device, torch.float32).contiguous()  # an expert's signs together, as in a gate:
            projection = self._on[device] = rows.t()  # with few experts the product is twice as fast
        return projection


class Native:
    """Routes natively and reports which experts ran."""

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
    """Routes by a key and reports which experts ran."""

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
        if torch.is_grad_enabled():  # no gradient passes through a choice
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


def filled(
    selected: tuple[Int64[np.ndarray, "tokens top_k"], Bool[np.ndarray, " tokens"], bool], native: Own
) -> Int[Tensor, "tokens top_k"]:
    """What a :class:`~okr.routing.compiled.Selector` selected, and the family's own choice where there is no
    opportunity."""
    experts, opportunity, everywhere = selected
    chosen = torch.from_numpy(experts)
    if everywhere:
        return chosen
    left = torch.from_numpy(~opportunity).nonzero().flatten()
    return chosen.index_copy_(0, left, native(left).to(chosen.dtype))


class Forced(Native):
    """Routes as ``experts`` [T, k] says (negative: natively) and shows ``observe`` the scores and hidden states."""

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
