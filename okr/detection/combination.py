"""Combines the evidence of a trace into one p-value (spec chapter EVIDENCE).

Two p-values are formed, each valid however tokens depend on each other:

- that of the swaps (:mod:`okr.detection.swaps`), which has no floor;
- Fisher's combination of the ranks among decoys at the sites. Given the trace, a key's projections at different sites
  are independent, and so are its ranks. This finds a key in fewer tokens, but it also ranks keys on native routing.
  So it counts only for traces with at least ``SHARE`` of the swaps that random keys would make. Whether that is so
  follows from the trace alone, so the p-value stays valid.

The p-value is twice the smaller one, at most 1 (Bonferroni's correction for two tests).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from okr.detection.swaps import LEAST_P

SHARE = 0.25
"""The ranks at the sites count where a trace has at least this share of the swaps that random keys would make."""


def site_ranks_p(
    surprise: Float[Tensor, " tests"],
    sites: Float[Tensor, " tests"],
    swapped: Float[Tensor, " tests"],
    expected: Float[Tensor, " tests"],
) -> Float[Tensor, " tests"]:
    """Fisher's combined p-value of the ranks at ``sites`` sites, where ``surprise`` is the sum of -log rank; 1 where
    fewer than ``SHARE`` of the ``expected`` swaps were made, or no site had an opportunity (OKR-EVIDENCE-007)."""
    counts = (sites > 0) & (expected > 0) & (swapped >= SHARE * expected)
    tail = torch.special.gammaincc(sites.clamp_min(1), surprise.clamp_min(0))  # of chi-squared with 2 x sites degrees
    return torch.where(counts, tail, 1.0)


def combined_p(first: float, second: float) -> float:
    """:func:`combined` of two numbers."""
    return min(1.0, max(LEAST_P, 2 * min(first, second)))


def combined(first: Float[Tensor, " tests"], second: Float[Tensor, " tests"]) -> Float[Tensor, " tests"]:
    """The p-value of two tests of one hypothesis: twice the smaller p-value, within [LEAST_P, 1]
    (OKR-EVIDENCE-008)."""
    return (2 * torch.minimum(first, second)).clamp(LEAST_P, 1.0)
