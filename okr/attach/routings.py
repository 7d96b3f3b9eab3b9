"""The three things an attached site may do: route by a key, route natively, or route as a trace says."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from okr.discovery import RouterSite
from okr.routing import Key, key_scores
from okr.routing.rows import in_memory, route_rows
from okr.routing.scores import TINY
from okr.routing.selection import route
from okr.routing.single import route_one


@dataclass(frozen=True)
class Setting:
    """How the key decides: the zone, its width epsilon (in the site's unit) and the strength."""

    epsilon: float
    zone: str = "max"
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

    def on(self, device: torch.device) -> Float[Tensor, "hidden_size experts"]:
        """The projection on ``device``, float32."""
        projection = self._on.get(device)
        if projection is None:
            projection = self._on[device] = self._signs.to(device, torch.float32)
        return projection


class Native:
    """Routes natively and tells ``report`` which experts ran."""

    dropped: Tensor | None = None

    def __init__(self, report: Callable[[Tensor], None] | None = None) -> None:
        self.report = report

    def choose(self, scores: Tensor, hidden: Tensor, native: Tensor) -> Tensor:
        return native

    def ran(self, experts: Tensor) -> None:
        if self.report is not None:
            self.report(experts)


class Keyed(Native):
    """Routes by a key and tells ``report`` which experts ran."""

    def __init__(
        self, site: RouterSite, key: Key, setting: Setting, report: Callable[[Tensor], None] | None = None
    ) -> None:
        super().__init__(report)
        self.site, self.project = site, Projector(site, key)
        self.rule: dict[str, Any] = {"top_k": site.top_k, **asdict(setting)}

    def choose(
        self,
        scores: Float[Tensor, "tokens experts"],
        hidden: Float[Tensor, "tokens hidden_size"],
        native: Int[Tensor, "tokens top_k"],
    ) -> Int[Tensor, "tokens top_k"]:
        if torch.is_grad_enabled():  # no gradient passes through a choice
            scores, hidden = scores.detach(), hidden.detach()
        choice = choice_scores(self.site, scores)
        if not in_memory(choice):
            return route(choice, self.project(hidden), native, **self.rule)[0]
        if hidden.dtype != torch.float32:
            hidden = hidden.float()
        rule, product = self.rule, hidden @ self.project.on(hidden.device)
        if len(choice) == 1:
            if rule["strength"] < math.inf:
                norm = float(torch.linalg.vector_norm(hidden))  # already in this process's memory
                rule = {**rule, "strength": rule["strength"] / max(norm, TINY)}
            chosen = route_one(choice.numpy()[0], product.numpy()[0], **rule)
            return native if chosen is None else torch.from_numpy(chosen[None])
        if rule["strength"] < math.inf:
            norms = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).clamp_min_(TINY)
            rule = {**rule, "strength": norms.reciprocal_().mul_(rule["strength"]).numpy()}
        return torch.from_numpy(route_rows(choice.numpy(), product.numpy(), native.numpy(), **rule)[0])


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
        self,
        scores: Float[Tensor, "tokens experts"],
        hidden: Float[Tensor, "tokens hidden_size"],
        native: Int[Tensor, "tokens top_k"],
    ) -> Int[Tensor, "tokens top_k"]:
        self.observe(choice_scores(self.site, scores), hidden)
        experts = self.experts.to(native.device)
        return torch.where(experts < 0, native, experts)
