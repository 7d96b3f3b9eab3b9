"""Adds up what a claimed key and its decoys match, and the evidence in the swaps, over sites and traces (spec chapters
VERIFY and EVIDENCE)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.detection.by_token import TokenCounts
from okr.detection.combination import site_ranks_p
from okr.detection.counting import count
from okr.detection.decoys import DecoyBlocks
from okr.detection.evidence import SiteEvidence
from okr.detection.swaps import SwapTally, distance, growth, swaps_of_random_keys
from okr.detection.verdict import SiteScore
from okr.engines.choice import Projector
from okr.routing import Key


class SiteTally:
    """The counts of one site over any number of traces, for the claimed key (index 0) and every decoy.

    ``matched`` counts the free slots with an expert that the key prefers. ``support`` is the sum of the preferences for
    the experts that ran. ``swaps`` is the evidence in the swaps, and ``expected`` the number of swaps that random keys
    would make.
    """

    def __init__(self, key: Key, decoys: DecoyBlocks, first: SiteEvidence) -> None:
        site = first.site
        self.path, self.decoys, self.project = site.path, decoys, Projector(site, key)
        self.swaps = SwapTally(site.hidden_size, site.num_experts)
        self.matched = torch.zeros(decoys.keys, dtype=torch.float64)
        self.support = torch.zeros(decoys.keys, dtype=torch.float64)
        self.routed = self.opportunities = self.free_slots = self.outside = 0
        self.expected = 0.0

    def add(self, evidence: SiteEvidence) -> TokenCounts:
        """Add the evidence of one trace, and return what each of its opportunities adds to the claimed key's counts."""
        self.routed += evidence.routed
        self.outside += evidence.outside
        self.opportunities += len(evidence.choice)
        self.free_slots += int(evidence.free.sum())
        if not len(evidence.choice):
            return TokenCounts.none()
        hits, ranks = self._count(evidence)
        expected = swaps_of_random_keys(evidence)
        self.expected += float(expected.sum())
        before = self.swaps.total.clone()
        rows, states, weights = self.swaps.add(evidence)
        sums, norms, swapped = torch.zeros(3, len(hits), dtype=torch.float64)
        sums[rows] = ((states @ self.project.signs.double()) * weights).sum(-1)
        norms[rows] = growth(before, states, weights)
        swapped[rows] = (weights > 0).sum(-1).double()
        tokens, free = evidence.tokens.cpu(), evidence.free.cpu()
        return TokenCounts(tokens, free, hits, sums, norms, swapped, expected, ranks)

    def _count(self, evidence: SiteEvidence) -> tuple[Int[Tensor, " opportunities"], Float[Tensor, " opportunities"]]:
        """Add what every key matches, and return the claimed key's matches at each opportunity and its rank there."""
        claimed = self.project(evidence.hidden)
        own_hits = own = torch.zeros(0)
        better = torch.zeros(len(claimed), dtype=torch.float64)
        for places, images in self.decoys:
            hits, support = count(images, evidence, claimed)
            matched = hits.cumsum(0, dtype=torch.float64) + self.matched[places]
            if not places.start:
                own_hits, own = hits[:, 0].long(), matched[:, :1].clone()
            better += (matched >= own).sum(1)  # the claimed key itself is one of them
            self.matched[places] = matched[-1]
            self.support[places] += support
        return own_hits, better / self.decoys.keys

    def rank(self) -> float:
        """The rank of the claimed key at this site, as a p-value; 1 without opportunities."""
        return rank(self.matched, self.support) if self.opportunities else 1.0

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
            rank_p=self.rank(),
        )


def at_least_as_good(
    matched: Float[Tensor, " keys"], support: Float[Tensor, " keys"], claimed: tuple[float, float]
) -> Bool[Tensor, " keys"]:
    """Which keys do at least as well as the claimed one: they match more, or match as much with at least its
    support."""
    return (matched > claimed[0]) | ((matched == claimed[0]) & (support >= claimed[1]))


def rank(matched: Float[Tensor, " keys"], support: Float[Tensor, " keys"]) -> float:
    """(1 + decoys that do at least as well as the claimed key) / (decoys + 1). The claimed key has index 0."""
    better = at_least_as_good(matched[1:], support[1:], (float(matched[0]), float(support[0])))
    return (1 + int(better.sum())) / len(matched)


def pooled_rank(tallies: Sequence[SiteTally]) -> float:
    """The rank of the claimed key by its matches and its support summed over all sites."""
    matched = torch.stack([tally.matched for tally in tallies]).sum(0)
    support = torch.stack([tally.support for tally in tallies]).sum(0)
    return rank(matched, support)


def swap_distance(tallies: Sequence[SiteTally]) -> float:
    """The z of the swap evidence over all sites."""
    return distance([tally.sum() for tally in tallies], [tally.swaps.squared_norm() for tally in tallies])


def sites_p_value(tallies: Sequence[SiteTally]) -> float:
    """The combined p-value of the ranks at the sites with an opportunity."""
    seen = [tally for tally in tallies if tally.opportunities]
    surprise = -math.fsum(math.log(tally.rank()) for tally in seen)
    swapped, expected = sum(tally.swaps.swaps for tally in seen), math.fsum(tally.expected for tally in seen)
    values = (torch.tensor(value, dtype=torch.float64) for value in (surprise, len(seen), swapped, expected))
    return float(site_ranks_p(*values))
