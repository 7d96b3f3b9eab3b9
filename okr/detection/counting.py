"""Counts what a claimed key and its images match in the evidence of one site. torch counts on cards. Compiled loops
count in host memory, where they need not build and sort a row of preferences for every image."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.detection.compiled import LARGEST, count_matches
from okr.detection.decoys import Decoys
from okr.detection.evidence import SiteEvidence
from okr.routing import preference
from okr.routing.compiled import in_memory

_CHUNK = 2**22  # the most scores held at once on a card: keys x tokens x experts


def count(
    decoys: Decoys, evidence: SiteEvidence, claimed: Float[Tensor, "tokens experts"]
) -> tuple[Int[Tensor, "tokens keys"], Float[Tensor, " keys"]]:
    """The matches [T, keys], int16, and the support [keys], float64, of a claimed key and its images. Both are on the
    CPU.

    A match is a free slot with an expert that the image prefers, counted at each of T opportunities. The support of an
    image is the sum of its preferences for the experts that ran, over all opportunities. It orders keys with equal
    matches. ``claimed`` [T, E] are the claimed key's scores at the opportunities.
    """
    if in_memory(claimed) and in_memory(evidence.choice):
        return _in_memory(decoys, evidence, claimed)
    keys = len(decoys.columns)
    hits, support = torch.zeros(len(claimed), keys, dtype=torch.int16), torch.zeros(keys, dtype=torch.float64)
    step = max(1, _CHUNK // max(1, evidence.choice.numel()))
    for first in range(0, keys, step):
        last = min(first + step, keys)
        scores = decoys.scores(claimed, first, last)
        found, prefers = matches(
            evidence.choice, scores, evidence.experts, evidence.pool, evidence.locked, evidence.strength
        )
        hits[:, first:last] = found.cpu()
        support[first:last] = prefers.sum(0, dtype=torch.float64).cpu()
    return hits, support


def matches(
    choice: Float[Tensor, "tokens experts"],
    scores: Float[Tensor, "tokens keys experts"],
    experts: Int[Tensor, "tokens top_k"],
    pool: Bool[Tensor, "tokens experts"],
    locked: Bool[Tensor, "tokens experts"],
    strength: float,
) -> tuple[Int[Tensor, "tokens keys"], Float[Tensor, "tokens keys"]]:
    """For every token and key: how many free slots hold an expert that the key prefers [T, keys], and the sum of its
    preferences for the experts of the pool that ran [T, keys].

    ``experts`` [T, k] are those that ran; all tokens are opportunities. A key prefers an expert of the pool if its
    preference is among the (k - locked) largest of the pool. That is: among the k largest if locked experts are put
    before all others.
    """
    rank = preference(choice[:, None], scores, strength)
    ran = rank.gather(-1, experts[:, None].expand(-1, rank.shape[1], -1))
    free_slot = pool.gather(-1, experts)[:, None]
    rank = rank.masked_fill(~(pool | locked)[:, None], -math.inf).masked_fill_(locked[:, None], math.inf)
    threshold = rank.topk(experts.shape[-1], dim=-1).values[..., -1:]
    hits = ((ran >= threshold) & free_slot).sum(-1)
    free = experts.shape[-1] - locked.sum(-1)
    return torch.minimum(hits, free[:, None]), (ran * free_slot).sum(-1)


def _in_memory(
    decoys: Decoys, evidence: SiteEvidence, claimed: Tensor
) -> tuple[Int[Tensor, "tokens keys"], Float[Tensor, " keys"]]:
    """The result of :func:`count` for tensors in host memory."""
    keys, size = decoys.columns.shape
    hits, support = np.zeros((len(claimed), keys), np.int16), np.zeros(keys, np.float64)
    parts = (evidence.choice, claimed, evidence.experts, evidence.pool, evidence.locked)
    choice, key, experts, pool, locked = (part.contiguous().numpy() for part in parts)
    places = (decoys.columns + size * (decoys.signs < 0)).to(torch.int32).numpy()
    alone = evidence.strength > float(LARGEST)
    rule = (np.float32(1.0 if alone else evidence.strength), alone)
    count_matches(choice, key, experts, pool, locked, places, rule, hits, support)
    return torch.from_numpy(hits), torch.from_numpy(support)
