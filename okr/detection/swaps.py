"""Turns a trace's swaps into a p-value (spec chapter EVIDENCE).

A swap is a difference between the experts that ran and those that the model itself would have run on the same states.
The native selection explains no swap, and a key explains the swaps that it made. So a trace of the native model shows
nothing, whichever key is claimed.

At one site, let W be the sum over tokens of the outer product of h / ||h|| with the token's swap weights. W follows
from the trace alone. The statistic is S = <W, P> for the key's projection P, summed over sites. If the trace was made
without knowledge of the key, the entries of P are independent random signs given W, so S is a weighted sum of signs.
For every such sum P(S >= z ||W||) <= ``CONSTANT`` P(N >= z), where N is a standard normal variable (Bentkus and
Dzindzalieta 2015, Bernoulli 21, 1231-1237). Tokens may depend on each other in any way: W is whatever it is. No decoy
is needed, and the p-value has no floor.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy.special import ndtr
from torch import Tensor

from okr.detection.counting import matches
from okr.detection.evidence import SiteEvidence
from okr.routing import find_zone
from okr.routing.scores import TINY

CONSTANT = 1 / (4 * float(ndtr(-math.sqrt(2))))
"""The least constant for which the bound holds for every weighted sum of random signs: 3.1787."""

REACH = 4.0
"""A swap counts where a key score of this size could have made it. A random key gives a larger one at one expert in
30,000."""

LEAST_NORM = 1e-12
"""A squared norm ||W||^2 up to this size is rounding: nothing was swapped, or all that was swapped cancels."""

LEAST_P = 1e-300
"""The least p-value that is reported. Smaller ones, which floating point cannot tell from 0, are raised to it."""

_BLOCK = 512  # tokens that are worked on at once
_DRAWS = 16


def sign_sum_p(z: float) -> float:
    """The p-value of a sum of random signs that lies ``z`` times its Euclidean norm above 0 (OKR-EVIDENCE-004)."""
    return min(1.0, max(LEAST_P, CONSTANT * float(ndtr(-z))))


def sign_sum_p_values(sums: Float[Tensor, " tests"], squared_norms: Float[Tensor, " tests"]) -> Float[Tensor, " tests"]:
    """The p-values of sums S of random signs with squared norms ||W||^2; 1 where nothing was swapped."""
    z = torch.where(squared_norms > LEAST_NORM, sums / squared_norms.clamp_min(LEAST_NORM).sqrt(), 0.0)
    # ndtr itself is 0 below about 1e-16 in torch
    p_values: Tensor = (CONSTANT * torch.special.log_ndtr(-z).exp()).clamp(LEAST_P, 1.0)
    return p_values


def swap_weights(evidence: SiteEvidence) -> Float[Tensor, "tokens experts"]:
    """The swap weights v of every opportunity, float64 [T, E] (OKR-EVIDENCE-001, 002).

    v is +w at an expert that ran instead of a native one and -w at a native one that did not run. It is 0 at other
    experts, and at those that no key score of at most ``REACH`` would have moved. There are f of these among the swaps
    of a token, and w = 1 / (1 + f): routing that the setting does not explain counts for little.
    """
    choice, top_k = evidence.choice, evidence.experts.shape[-1]
    native = choice.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    ran = torch.zeros(choice.shape, dtype=torch.float64, device=choice.device).scatter_(-1, evidence.experts, 1.0)
    swaps = ran.scatter_add_(-1, native, torch.full(native.shape, -1.0, dtype=torch.float64, device=choice.device))
    near = find_zone(choice, top_k=top_k, epsilon=REACH * evidence.strength, zone="boundary").pool & evidence.pool
    far = (swaps.abs() * ~near).sum(-1, keepdim=True)
    return swaps * near / (1 + far)


def swaps_of_random_keys(evidence: SiteEvidence) -> Float[Tensor, " tokens"]:
    """How many swaps random keys would make on average at every opportunity, float64 [T] on the CPU.

    It is the mean over ``_DRAWS`` draws of key scores from the standard normal law, which follow from the shape of the
    evidence alone and know of no key.
    """
    choice, top_k = evidence.choice, evidence.experts.shape[-1]
    native = choice.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    generator, means = torch.Generator().manual_seed(0), []
    for first in range(0, len(choice), _BLOCK):
        part = slice(first, first + _BLOCK)
        scores = torch.randn(len(choice[part]), _DRAWS, choice.shape[1], generator=generator).to(choice)
        kept, _ = matches(
            choice[part], scores, native[part], evidence.pool[part], evidence.locked[part], evidence.strength
        )
        means.append(evidence.free[part].cpu() - kept.double().mean(1).cpu())
    return torch.cat(means) if means else torch.zeros(0, dtype=torch.float64)


class SwapTally:
    """The swap evidence at one site, over any number of traces.

    Attributes:
        total: W, float64 [hidden_size, E].
        swaps: how many experts were swapped in and count.
    """

    def __init__(self, hidden_size: int, experts: int) -> None:
        self.total = torch.zeros(hidden_size, experts, dtype=torch.float64)
        self.swaps = 0

    def add(self, evidence: SiteEvidence) -> tuple[Int[Tensor, " rows"], Tensor, Tensor]:
        """Add the evidence of one trace. Returns the R opportunities with a swap that counts, their normed states
        [R, hidden_size] and their weights [R, E], float64 on the CPU."""
        weights = swap_weights(evidence).cpu()
        rows = weights.any(-1).nonzero().flatten()
        states, weights = evidence.hidden.cpu()[rows].double(), weights[rows]
        states = states / torch.linalg.vector_norm(states, dim=-1, keepdim=True).clamp_min(TINY)
        self.swaps += int((weights > 0).sum())
        self.total += states.T @ weights
        return rows, states, weights

    def squared_norm(self) -> float:
        """||W||^2."""
        return float(self.total.square().sum())

    def sum(self, projection: Tensor) -> float:
        """<W, P> for a key's ``projection`` of +1 and -1, [hidden_size, E]."""
        return float(torch.dot(self.total.flatten(), projection.double().flatten()))


def growth(
    before: Float[Tensor, "hidden_size experts"],
    states: Float[Tensor, "rows hidden_size"],
    weights: Float[Tensor, "rows experts"],
) -> Float[Tensor, " rows"]:
    """By how much each row's swaps change ||W||^2, in order, where W was ``before``. float64 [rows]."""
    grown = []
    for first in range(0, len(states), _BLOCK):
        state, weight = states[first : first + _BLOCK], weights[first : first + _BLOCK]
        alike = (state @ state.T) * (weight @ weight.T)  # inner products of the rows' parts of W
        earlier = ((state @ before) * weight).sum(-1) + alike.tril(-1).sum(-1)
        grown.append(2 * earlier + alike.diagonal())
        before = before + state.T @ weight
    return torch.cat(grown) if grown else states.new_zeros(0)


def distance(sums: Sequence[float], squared_norms: Sequence[float]) -> float:
    """z: the sum of ``sums`` over the root of the sum of ``squared_norms``; 0 where nothing was swapped."""
    squared = math.fsum(squared_norms)
    return math.fsum(sums) / math.sqrt(squared) if squared > LEAST_NORM else 0.0
