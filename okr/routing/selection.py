"""Zones, strength and selection: which experts run (spec chapters ZONE, SEL, TIE, STR, FAIL). The whole algorithm.

Pure functions of tensors: no Python loop over tokens or experts, no host synchronisation.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Zone(NamedTuple):
    """Which experts may change places, before any key is looked at."""

    opportunity: Bool[Tensor, " tokens"]
    pool: Bool[Tensor, "tokens experts"]  # those that compete; empty where there is no opportunity
    locked: Bool[Tensor, "tokens experts"]  # those that run whatever the key says
    free: Int[Tensor, " tokens"]  # slots left to the pool: k - locked; 0 where there is no opportunity


class Selection(NamedTuple):
    """Which experts run: ``indices`` in descending order of choice score, and the zone they came from."""

    indices: Int[Tensor, "tokens top_k"]
    opportunity: Bool[Tensor, " tokens"]
    pool: Bool[Tensor, "tokens experts"]
    locked: Bool[Tensor, "tokens experts"]


def find_zone(choice: Float[Tensor, "tokens experts"], *, top_k: int, epsilon: float, zone: str) -> Zone:
    """The zone of every token (clauses ZONE and FAIL). ``choice`` is float32 or wider; -inf bars an expert."""
    experts = choice.shape[-1]
    candidate = choice > -math.inf
    count = candidate.sum(-1)
    # False for NaN and +inf anywhere in the row; fewer than k candidates leave the token to the native selection.
    sound = (choice < math.inf).all(-1) & (count >= top_k)
    if zone == "max":
        pool = candidate & (choice >= choice.amax(-1, keepdim=True) - epsilon)
        locked = torch.zeros_like(pool)
    else:
        top = choice.topk(min(top_k + 1, experts), dim=-1).values
        b_in = top[:, top_k - 1, None]
        b_out = top[:, top_k, None] if top_k < experts else torch.full_like(b_in, -math.inf)
        locked = choice > b_out + epsilon  # epsilon = inf with b_out = -inf is NaN: nothing locked, nothing to win
        pool = candidate & (choice >= b_in - epsilon) & ~locked
    free = top_k - locked.sum(-1)
    opportunity = sound & (pool.sum(-1) > free) & (free > 0)
    here = opportunity[:, None]
    return Zone(opportunity, pool & here, locked & here, free * opportunity)


def preference(
    choice: Float[Tensor, "tokens *#keys experts"], key_scores: Float[Tensor, "tokens *keys experts"], strength: float
) -> Float[Tensor, "tokens *keys experts"]:
    """What the pool is ranked by: the key score alone, or choice + strength * key score where strength is finite."""
    if strength == math.inf:
        return key_scores
    largest = torch.finfo(choice.dtype).max  # an overflowed sum must pass for neither locked nor outside (OKR-STR-005)
    return (choice + min(strength, largest) * key_scores).clamp(-largest, largest)


def select(
    choice: Float[Tensor, "tokens experts"],
    key_scores: Float[Tensor, "tokens experts"],
    *,
    top_k: int,
    epsilon: float,
    zone: str,
    strength: float = math.inf,
    native: Int[Tensor, "tokens top_k"] | None = None,
) -> Selection:
    """The experts that run: locked ones, then the pool's best by preference; the native ones where there is no
    opportunity.

    ``choice`` and ``key_scores`` are float32 or wider. ``native`` is what the model itself would run; None means the
    k largest choice scores, ties to the lower index. A token whose key scores are not finite is no opportunity.
    """
    found = find_zone(choice, top_k=top_k, epsilon=epsilon, zone=zone)
    opportunity = found.opportunity & key_scores.isfinite().all(-1)
    if native is None:
        native = _ranked(choice, torch.ones_like(found.pool), top_k)
    rank = preference(choice, key_scores, strength)
    rank = rank.masked_fill(~found.pool, -math.inf).masked_fill(found.locked, math.inf)
    chosen = rank.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    members = torch.zeros_like(found.pool).scatter_(-1, chosen, True)
    indices = torch.where(opportunity[:, None], _ranked(choice, members, top_k), native)
    here = opportunity[:, None]
    return Selection(indices, opportunity, found.pool & here, found.locked & here)


def _ranked(
    choice: Float[Tensor, "tokens experts"], members: Bool[Tensor, "tokens experts"], top_k: int
) -> Int[Tensor, "tokens top_k"]:
    """``members`` (exactly k a token) in descending order of choice score, ties to the lower index."""
    order = choice.masked_fill(~members, -math.inf).sort(dim=-1, descending=True, stable=True).indices
    return order[:, :top_k]
