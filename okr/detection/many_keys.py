"""Tests one trace under many keys."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from okr.detection.combination import SHARE, combined_p, site_ranks_p
from okr.detection.counting import count
from okr.detection.decoys import DecoyBlocks, site_seed
from okr.detection.evidence import SiteEvidence, gather_evidence
from okr.detection.swaps import SwapTally, distance, sign_sum_p, swaps_of_random_keys
from okr.detection.tally import rank
from okr.detection.verification import decoy_seed
from okr.discovery import RouterSite
from okr.engines import Engine
from okr.engines.choice import Projector
from okr.routing import Key, Setting
from okr.traces import Trace


class Swaps:
    """The evidence in the swaps of one trace or of several, for any number of keys.

    ``found`` holds the evidence of each trace, site by site.
    """

    def __init__(self, found: Sequence[Sequence[SiteEvidence]]) -> None:
        self.expected = 0.0
        sites: dict[str, tuple[RouterSite, SwapTally]] = {}
        for evidence in (site for trace in found for site in trace):
            site = evidence.site
            sites.setdefault(site.path, (site, SwapTally(site.hidden_size, site.num_experts)))[1].add(evidence)
            self.expected += float(swaps_of_random_keys(evidence).sum())
        self.sites = list(sites.values())
        self.swaps = sum(tally.swaps for _, tally in self.sites)
        self.norms = [tally.squared_norm() for _, tally in self.sites]

    @property
    def ranks_count(self) -> bool:
        """Whether enough was swapped for the ranks among decoys to count (OKR-EVIDENCE-007)."""
        return self.swaps >= SHARE * self.expected > 0

    def distance(self, key: Key) -> float:
        """The z of ``key`` over all sites."""
        return distance([tally.sum(Projector(site, key).signs) for site, tally in self.sites], self.norms)

    def p_value(self, key: Key, ranks: Sequence[float] = ()) -> float:
        """The p-value of ``key`` with these ranks at the sites with an opportunity; without any no ranks count."""
        parts = (-math.fsum(map(math.log, ranks)), len(ranks), self.swaps, self.expected)
        sites_p = site_ranks_p(*(torch.tensor(part, dtype=torch.float64) for part in parts))
        return combined_p(sign_sum_p(self.distance(key)), float(sites_p))


def p_values(
    engine: Engine, trace: Trace, keys: Sequence[Key], setting: Setting, *, decoys: int = 999
) -> Float[np.ndarray, " keys"]:
    """The p-values of :func:`okr.verify` for one trace and many keys, from one replay.

    Where the trace has too few swaps for ranks to count, as native traces do, each key takes one inner product a site.
    """
    found = gather_evidence(engine, trace, setting, skip_prompt=False)
    swaps = Swaps([found])
    if not swaps.swaps:
        return np.ones(len(keys))
    if not swaps.ranks_count:
        return np.array([swaps.p_value(key) for key in keys])
    return np.array([swaps.p_value(key, site_ranks([found], key, decoys, decoy_seed([trace], key))) for key in keys])


def site_ranks(found: Sequence[Sequence[SiteEvidence]], key: Key, decoys: int, seed: bytes) -> list[float]:
    """The rank of ``key`` at each site with an opportunity, from the evidence of each trace. ``seed`` draws the
    decoys."""
    counts: dict[str, Tensor] = {}
    images: dict[str, DecoyBlocks] = {}
    for evidence in (site for trace in found for site in trace if len(site.choice)):
        site = evidence.site
        if site.path not in counts:
            images[site.path] = DecoyBlocks(decoys, site.num_experts, site_seed(seed, site.path))
            counts[site.path] = torch.zeros(2, decoys + 1, dtype=torch.float64)
        claimed = Projector(site, key)(evidence.hidden)
        for places, block in images[site.path]:
            hits, support = count(block, evidence, claimed)
            counts[site.path][:, places] += torch.stack((hits.sum(0).double(), support))
    return [rank(matched, support) for matched, support in counts.values()]
