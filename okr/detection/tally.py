"""Adds up what a claimed key and its decoys match, over sites and traces (spec chapter VERIFY)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.detection.counting import count
from okr.detection.decoys import Decoys
from okr.detection.evidence import SiteEvidence
from okr.detection.verdict import SiteScore, TokenScore
from okr.engines.choice import Projector
from okr.routing import Key


class SiteTally:
    """The counts of one site over any number of traces, for the claimed key (index 0) and every decoy.

    ``matched`` counts the free slots with an expert that the key prefers. ``support`` is the sum of the preferences for
    the experts that ran.
    """

    def __init__(self, key: Key, decoys: Decoys, first: SiteEvidence) -> None:
        self.path, self.decoys, self.project = first.site.path, decoys, Projector(first.site, key)
        keys = len(decoys.columns)
        self.matched = torch.zeros(keys, dtype=torch.float64)
        self.support = torch.zeros(keys, dtype=torch.float64)
        self.routed = self.opportunities = self.free_slots = self.outside = 0

    def add(self, evidence: SiteEvidence) -> Int[Tensor, "tokens keys"]:
        """Add the evidence of one trace, and return the matches of every key at every opportunity, int16 on the CPU."""
        self.routed += evidence.routed
        self.outside += evidence.outside
        self.opportunities += len(evidence.choice)
        self.free_slots += int(evidence.free.sum())
        if not len(evidence.choice):
            return torch.zeros(0, len(self.matched), dtype=torch.int16)
        hits, support = count(self.decoys, evidence, self.project(evidence.hidden))
        self.support += support
        self.matched += hits.sum(0)
        return hits

    def score(self) -> SiteScore:
        """The site's part of the verdict."""
        free = self.free_slots
        return SiteScore(
            path=self.path,
            opportunities=self.opportunities,
            free_slots=free,
            hit_rate=float(self.matched[0]) / free if free else None,
            chance_rate=float(self.matched[1:].mean()) / free if free else None,
        )


def at_least_as_good(
    matched: Float[Tensor, " keys"], support: Float[Tensor, " keys"], claimed: tuple[float, float]
) -> Bool[Tensor, " keys"]:
    """Which keys do at least as well as the claimed one: they match more, or match as much with at least its
    support."""
    return (matched > claimed[0]) | ((matched == claimed[0]) & (support >= claimed[1]))


class TokenTally:
    """The counts by decoder token, for the claimed key (index 0) and every decoy of the open trace. Of earlier traces
    only the claimed key's counts and p-values are kept."""

    def __init__(self, keys: int) -> None:
        self.keys = keys
        self.before = torch.zeros(keys, dtype=torch.int64)  # matches in earlier traces, and at encoder sites so far
        self.matched = torch.zeros(0, keys, dtype=torch.int16)
        self.traces: list[tuple[Tensor, Tensor, Tensor]] = []
        self.ranks: list[Float[Tensor, " tokens"]] = []

    def open_trace(self, tokens: int) -> None:
        """Begin the next trace, with ``tokens`` routed decoder tokens."""
        self._close()
        self.matched = torch.zeros(tokens, self.keys, dtype=torch.int16)
        counts = torch.zeros(tokens, dtype=torch.int64)
        self.traces.append((counts, counts.clone(), self.matched[:, 0]))

    def add(self, evidence: SiteEvidence, hits: Int[Tensor, "tokens keys"]) -> None:
        """Add the matches at one site of the open trace."""
        tokens, free = evidence.tokens.cpu(), evidence.free.cpu()
        if len(tokens) and int(tokens[0]) < 0:
            self.before += hits.sum(0)
            return
        opportunities, slots, _ = self.traces[-1]
        opportunities.index_add_(0, tokens, torch.ones_like(tokens))
        slots.index_add_(0, tokens, free)
        self.matched.index_add_(0, tokens, hits)

    def _close(self) -> None:
        """Rank the claimed key after each token of the open trace, and drop the decoys' counts by token."""
        if not self.traces or len(self.ranks) == len(self.traces):
            return
        sums = self.matched.cumsum(0, dtype=torch.int64) + self.before
        self.ranks.append((1 + (sums[:, 1:] >= sums[:, :1]).sum(1)).double() / self.keys)
        self.before = sums[-1]
        self.traces[-1] = (*self.traces[-1][:2], self.matched[:, 0].clone())
        self.matched = torch.zeros(0, self.keys, dtype=torch.int16)

    def scores(self) -> tuple[TokenScore, ...]:
        """The claimed key's counts at every decoder token where it could decide."""
        return tuple(
            TokenScore(number, index, int(opportunities[index]), int(slots[index]), int(matched[index]))
            for number, (opportunities, slots, matched) in enumerate(self.traces)
            for index in opportunities.nonzero().flatten().tolist()
        )

    def p_values(self) -> Float[Tensor, " tokens"]:
        """The p-value after each decoder token: the rank of the claimed key among the decoys, which rank higher if they
        match as much.

        An encoder's matches count from the first token of its trace on.
        """
        self._close()
        return torch.cat(self.ranks)

    def needed(self, alpha: float) -> int | None:
        """The smallest number of leading decoder tokens with a p-value of at most ``alpha``, or None."""
        enough = (self.p_values() <= alpha * (1 + 1e-9)).nonzero()
        return int(enough[0]) + 1 if len(enough) else None


def pooled(tallies: Sequence[SiteTally]) -> tuple[Float[Tensor, " keys"], Float[Tensor, " keys"]]:
    """The matches and the support of every key, summed over all sites."""
    return (
        torch.stack([tally.matched for tally in tallies]).sum(0),
        torch.stack([tally.support for tally in tallies]).sum(0),
    )
