"""Adds up what a claimed key and its decoys match, over sites and traces (spec chapter VERIFY)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.detection.counting import count
from okr.detection.decoys import Decoys
from okr.detection.evidence import SiteEvidence
from okr.detection.swaps import CONSTANT, LEAST_NORM, LEAST_P, SwapTally, distance, growth
from okr.detection.verdict import SiteScore, TokenScore
from okr.engines.choice import Projector
from okr.routing import Key


class SiteTally:
    """The counts of one site over any number of traces, for the claimed key (index 0) and every decoy.

    ``matched`` counts the free slots with an expert that the key prefers. ``support`` is the sum of the preferences for
    the experts that ran. ``swaps`` is the evidence of the claimed key.
    """

    def __init__(self, key: Key, decoys: Decoys, first: SiteEvidence) -> None:
        site = first.site
        self.path, self.decoys, self.project = site.path, decoys, Projector(site, key)
        self.swaps = SwapTally(site.hidden_size, site.num_experts)
        keys = len(decoys.columns)
        self.matched = torch.zeros(keys, dtype=torch.float64)
        self.support = torch.zeros(keys, dtype=torch.float64)
        self.routed = self.opportunities = self.free_slots = self.outside = 0

    def add(self, evidence: SiteEvidence) -> "TokenCounts":
        """Add the evidence of one trace, and return what each of its opportunities adds to the claimed key's counts."""
        self.routed += evidence.routed
        self.outside += evidence.outside
        self.opportunities += len(evidence.choice)
        self.free_slots += int(evidence.free.sum())
        if not len(evidence.choice):
            return TokenCounts.none()
        hits, support = count(self.decoys, evidence, self.project(evidence.hidden))
        self.support += support
        self.matched += hits.sum(0)
        before = self.swaps.total.clone()
        rows, states, weights = self.swaps.add(evidence)
        sums, norms = torch.zeros(2, len(hits), dtype=torch.float64)
        sums[rows] = ((states @ self.project.signs.double()) * weights).sum(-1)
        norms[rows] = growth(before, states, weights)
        return TokenCounts(evidence.tokens.cpu(), evidence.free.cpu(), hits[:, 0].long(), sums, norms)

    def sum(self) -> float:
        """The swap evidence S of the claimed key at this site."""
        return self.swaps.sum(self.project.signs)

    def score(self) -> SiteScore:
        """The site's part of the verdict."""
        free = self.free_slots
        return SiteScore(
            path=self.path,
            opportunities=self.opportunities,
            free_slots=free,
            hit_rate=float(self.matched[0]) / free if free else None,
            chance_rate=float(self.matched[1:].mean()) / free if free else None,
            swaps=self.swaps.swaps,
            z=distance([self.sum()], [self.swaps.squared_norm()]),
        )


class TokenCounts(NamedTuple):
    """What T opportunities of one site in one trace add to the claimed key's counts."""

    tokens: Int[Tensor, " opportunities"]  # their places among the decoder tokens, or -1
    free: Int[Tensor, " opportunities"]
    matched: Int[Tensor, " opportunities"]
    sums: Float[Tensor, " opportunities"]  # what they add to the swap evidence S
    norms: Float[Tensor, " opportunities"]  # what they add to ||W||^2

    @classmethod
    def none(cls) -> "TokenCounts":
        """No opportunities."""
        whole, real = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        return cls(whole, whole, whole, real, real)


def at_least_as_good(
    matched: Float[Tensor, " keys"], support: Float[Tensor, " keys"], claimed: tuple[float, float]
) -> Bool[Tensor, " keys"]:
    """Which keys do at least as well as the claimed one: they match more, or match as much with at least its
    support."""
    return (matched > claimed[0]) | ((matched == claimed[0]) & (support >= claimed[1]))


class TokenTally:
    """The claimed key's counts by decoder token."""

    def __init__(self) -> None:
        self.traces: list[_TraceCounts] = []

    def open_trace(self, tokens: int) -> None:
        """Begin the next trace, with ``tokens`` routed decoder tokens."""
        self.traces.append(_TraceCounts.empty(tokens))

    def add(self, found: TokenCounts) -> None:
        """Add what one site of the open trace gave. What an encoder adds to the evidence counts from the first token
        on."""
        counts, first = self.traces[-1], found.tokens.clamp_min(0)
        if len(counts.sums):
            counts.sums.index_add_(0, first, found.sums)
            counts.norms.index_add_(0, first, found.norms)
        here = found.tokens >= 0
        tokens = found.tokens[here]
        counts.opportunities.index_add_(0, tokens, torch.ones_like(tokens))
        counts.free.index_add_(0, tokens, found.free[here])
        counts.matched.index_add_(0, tokens, found.matched[here])

    def scores(self) -> tuple[TokenScore, ...]:
        """The claimed key's counts at every decoder token where it could decide."""
        return tuple(
            TokenScore(number, index, *(int(part[index]) for part in counts[:3]))
            for number, counts in enumerate(self.traces)
            for index in counts.opportunities.nonzero().flatten().tolist()
        )

    def p_values(self) -> Float[Tensor, " tokens"]:
        """The p-value after each decoder token, float64 [tokens]."""
        sums = torch.cat([counts.sums for counts in self.traces]).cumsum(0)
        norms = torch.cat([counts.norms for counts in self.traces]).cumsum(0)
        z = torch.where(norms > LEAST_NORM, sums / norms.clamp_min(LEAST_NORM).sqrt(), 0.0)
        p_values: Tensor = (CONSTANT * torch.special.ndtr(-z)).clamp(LEAST_P, 1.0)
        return p_values

    def needed(self, alpha: float) -> int | None:
        """The smallest number of leading decoder tokens with a p-value of at most ``alpha``, or None."""
        enough = (self.p_values() <= alpha).nonzero()
        return int(enough[0]) + 1 if len(enough) else None


class _TraceCounts(NamedTuple):
    """The counts of one trace, by decoder token."""

    opportunities: Int[Tensor, " tokens"]
    free: Int[Tensor, " tokens"]
    matched: Int[Tensor, " tokens"]
    sums: Float[Tensor, " tokens"]
    norms: Float[Tensor, " tokens"]

    @classmethod
    def empty(cls, tokens: int) -> "_TraceCounts":
        """No counts yet."""
        whole, real = torch.zeros(3, tokens, dtype=torch.int64), torch.zeros(2, tokens, dtype=torch.float64)
        return cls(*whole, *real)


def pooled(tallies: Sequence[SiteTally]) -> tuple[Float[Tensor, " keys"], Float[Tensor, " keys"]]:
    """The matches and the support of every key, summed over all sites."""
    return (
        torch.stack([tally.matched for tally in tallies]).sum(0),
        torch.stack([tally.support for tally in tallies]).sum(0),
    )
