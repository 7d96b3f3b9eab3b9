"""Keeps the claimed key's counts by decoder token, and the p-value after each (spec chapter EVIDENCE)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from okr.detection.combination import combined, site_ranks_p
from okr.detection.swaps import sign_sum_p_values
from okr.detection.verdict import TokenScore


class TokenCounts(NamedTuple):
    """What the opportunities of one site in one trace add to the claimed key's counts."""

    tokens: Int[Tensor, " opportunities"]  # their places among the decoder tokens, or -1
    free: Int[Tensor, " opportunities"]
    matched: Int[Tensor, " opportunities"]
    sums: Float[Tensor, " opportunities"]  # what they add to the swap evidence S
    norms: Float[Tensor, " opportunities"]  # what they add to ||W||^2
    swapped: Float[Tensor, " opportunities"]  # how many swaps count
    expected: Float[Tensor, " opportunities"]  # how many swaps random keys would make
    ranks: Float[Tensor, " opportunities"]  # the rank of the claimed key at the site after each

    @classmethod
    def none(cls) -> "TokenCounts":
        """No opportunities."""
        whole, real = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        return cls(whole, whole, whole, real, real, real, real, real)


@dataclass
class _Trace:
    """The counts of one trace, by decoder token.

    Attributes:
        counts: opportunities, free slots, matches and swaps of decoder tokens.
        evidence: what is added to S, to ||W||^2, to the swaps and to the expected swaps.
        surprise: the sum of -log rank over sites, after each token.
        sites: how many sites had an opportunity, after each token.
    """

    counts: Int[Tensor, "4 tokens"]
    evidence: Float[Tensor, "4 tokens"]
    surprise: Float[Tensor, " tokens"]
    sites: Float[Tensor, " tokens"]


class TokenTally:
    """The claimed key's counts by decoder token, over any number of traces."""

    def __init__(self) -> None:
        self.traces: list[_Trace] = []
        self._ranks: dict[str, float] = {}  # the rank at each site that had an opportunity, so far

    def open_trace(self, tokens: int) -> None:
        """Begin the next trace, with ``tokens`` routed decoder tokens."""
        real = torch.zeros(6, tokens, dtype=torch.float64)
        self.traces.append(_Trace(torch.zeros(4, tokens, dtype=torch.int64), real[:4], real[4], real[5]))

    def add(self, path: str, found: TokenCounts) -> None:
        """Add what the site at ``path`` gave in the open trace. What an encoder adds to the evidence counts from the
        first token on."""
        trace, here = self.traces[-1], found.tokens >= 0
        tokens = found.tokens[here]
        ones = torch.ones_like(tokens)
        counted = (ones, found.free[here], found.matched[here], found.swapped[here].long())
        trace.counts.index_add_(1, tokens, torch.stack(counted))
        if not trace.counts.shape[1]:
            return
        first = found.tokens.clamp_min(0)
        trace.evidence.index_add_(1, first, torch.stack((found.sums, found.norms, found.swapped, found.expected)))
        passed = torch.zeros_like(trace.counts[0]).index_add_(0, first, torch.ones_like(first)).cumsum(0)
        known = path in self._ranks
        ranks = torch.cat((torch.tensor([self._ranks.get(path, 1.0)], dtype=torch.float64), found.ranks))
        trace.surprise.sub_(ranks[passed].log())
        trace.sites.add_((passed > 0) | known)
        if known or len(found.ranks):
            self._ranks[path] = float(ranks[-1])

    def scores(self) -> tuple[TokenScore, ...]:
        """The claimed key's counts at every decoder token where it could decide."""
        lengths = [trace.counts.shape[1] for trace in self.traces]
        found = []
        for number, (trace, p) in enumerate(zip(self.traces, self.p_values().split(lengths), strict=True)):
            for index in trace.counts[0].nonzero().flatten().tolist():
                opportunities, free_slots, matched, swaps = trace.counts[:, index].tolist()
                found.append(TokenScore(number, index, opportunities, free_slots, matched, swaps, float(p[index])))
        return tuple(found)

    def p_values(self) -> Float[Tensor, " tokens"]:
        """The p-value after each decoder token, float64 [tokens]. Decoys that match as much as the key rank above
        it."""
        sums, norms, swapped, expected = torch.cat([trace.evidence for trace in self.traces], 1).cumsum(1)
        surprise, sites = (torch.cat(part) for part in zip(*((t.surprise, t.sites) for t in self.traces), strict=True))
        return combined(sign_sum_p_values(sums, norms), site_ranks_p(surprise, sites, swapped, expected))

    def needed(self, alpha: float) -> int | None:
        """The smallest number of leading decoder tokens with a p-value of at most ``alpha``, or None."""
        enough = (self.p_values() <= alpha).nonzero()
        return int(enough[0]) + 1 if len(enough) else None
