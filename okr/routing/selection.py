"""Zones, strength and selection: which experts run (spec chapters ZONE, SEL, TIE, STR, FAIL). This is the whole
algorithm.

These are pure functions of tensors, without Python loops over tokens or experts and without host synchronisation. They
run at every router call, mostly on one token. A torch operation on one token costs more than its arithmetic, so there
are few operations, and numbers are tensors that are made once.
"""

import math
import sys
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_FINITE = sys.float_info.max  # compilers take a number they leave open for finite: "== inf" would get no guard


class Zone(NamedTuple):
    """Which experts may change places, before any key is looked at.

    ``members`` and ``leaders`` mean nothing at tokens where ``contested`` is False. ``leaders`` is None if no expert
    is locked.
    """

    contested: Bool[Tensor, "tokens 1"]
    members: Bool[Tensor, "tokens experts"]  # S
    leaders: Bool[Tensor, "tokens experts"] | None  # L
    top_k: int

    @property
    def opportunity(self) -> Bool[Tensor, " tokens"]:
        """The tokens at which a key can decide."""
        return self.contested[:, 0]

    @property
    def locked(self) -> Bool[Tensor, "tokens experts"]:
        """The experts that run whatever the key says. A token that is no opportunity has no locked expert."""
        return torch.zeros_like(self.members) if self.leaders is None else self.leaders & self.contested

    @property
    def pool(self) -> Bool[Tensor, "tokens experts"]:
        """The experts that compete. The pool is empty where the token is no opportunity."""
        return self.members & self.contested & ~self.locked

    @property
    def free(self) -> Int[Tensor, " tokens"]:
        """How many slots the pool fills: k less the locked experts, and 0 where the token is no opportunity."""
        return (self.top_k - self.locked.sum(-1)) * self.opportunity


class Selection(NamedTuple):
    """Which experts run: ``indices`` [T, k] in descending order of choice score, and the zone that they came from."""

    indices: Int[Tensor, "tokens top_k"]
    opportunity: Bool[Tensor, " tokens"]
    pool: Bool[Tensor, "tokens experts"]
    locked: Bool[Tensor, "tokens experts"]


def find_zone(choice: Float[Tensor, "tokens experts"], *, top_k: int, epsilon: float, zone: str) -> Zone:
    """The zone of every token (clauses ZONE and FAIL). ``choice`` is float32 or wider, [tokens, experts]; -inf bars an
    expert.

    The maximum of a row that holds NaN or +inf is NaN or +inf, so such a row is not contested. An edge of -inf would
    let barred experts in, so an edge is never below the least finite number.
    """
    least, width = torch.finfo(choice.dtype).min, _number(epsilon)
    if zone == "max" or epsilon > _FINITE or top_k == choice.shape[-1]:  # k = E: all are members, no one contests
        best = choice.amax(-1, keepdim=True)
        members = choice >= (best - width).clamp_min(least)
        contested = (members.sum(-1, keepdim=True) > _number(top_k)) & (best < _number(math.inf))
        return Zone(contested, members, None, top_k)
    top = choice.topk(top_k + 1, dim=-1).values
    b_in, b_out = top[:, top_k - 1 : top_k], top[:, top_k:]
    edge, lock = (b_in - width).clamp_min(least), b_out + width
    contested = (b_out >= edge) & (b_in <= lock) & (top[:, :1] < _number(math.inf))  # |S| > k, |L| < k, sound
    return Zone(contested, choice >= edge, choice > lock, top_k)


def preference(
    choice: Float[Tensor, "tokens *#keys experts"], key_scores: Float[Tensor, "tokens *keys experts"], strength: float
) -> Float[Tensor, "tokens *keys experts"]:
    """What the pool is ranked by: the key score alone, or choice + strength * key score if the strength is finite."""
    if strength > _FINITE:
        return key_scores
    largest = torch.finfo(choice.dtype).max  # an overflowed sum must pass for neither locked nor outside (OKR-STR-005)
    return (choice + _number(min(strength, largest)) * key_scores).clamp(-largest, largest)


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
    """The experts that run: the locked experts and then the pool's best by preference, or the native selection where
    the token is no opportunity.

    ``choice`` and ``key_scores`` are float32 or wider, [tokens, experts]. ``native`` is what the model itself would
    run, [tokens, top_k]; None stands for the k largest choice scores, ties to the lower index. A token is no
    opportunity if one of its key scores is not finite.
    """
    if native is None:
        native = choice.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    indices, found = route(choice, key_scores, native, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength)
    return Selection(indices, found.opportunity, found.pool, found.locked)


def route(
    choice: Float[Tensor, "tokens experts"],
    key_scores: Float[Tensor, "tokens experts"],
    native: Int[Tensor, "tokens top_k"],
    *,
    top_k: int,
    epsilon: float,
    zone: str,
    strength: float,
) -> tuple[Int[Tensor, "tokens top_k"], Zone]:
    """:func:`select` without its report: the indices [tokens, top_k], and the zone of the tokens whose key scores are
    finite."""
    found = find_zone(choice, top_k=top_k, epsilon=epsilon, zone=zone)
    largest = key_scores.abs().amax(-1, keepdim=True)
    found = found._replace(contested=found.contested & (largest < _number(math.inf)))
    rank = torch.where(found.members, preference(choice, key_scores, strength), _number(-math.inf))
    if found.leaders is not None:
        rank = torch.where(found.leaders, _number(math.inf), rank)
    chosen = _by_choice(choice, _first(rank, top_k))
    return torch.where(found.contested, chosen, native), found


def _first(rank: Float[Tensor, "tokens experts"], top_k: int) -> Int[Tensor, "tokens top_k"]:
    """The k largest of every row, ties to the lower index. Every row has k numbers above -inf."""
    if top_k == 1:
        return rank.argmax(-1, keepdim=True)
    return rank.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]


def _by_choice(
    choice: Float[Tensor, "tokens experts"], chosen: Int[Tensor, "tokens top_k"]
) -> Int[Tensor, "tokens top_k"]:
    """``chosen`` in descending order of choice score, ties to the lower index."""
    if chosen.shape[-1] == 1:
        return chosen
    chosen = chosen.sort(-1).values
    return chosen.gather(-1, choice.gather(-1, chosen).sort(dim=-1, descending=True, stable=True).indices)


def _number(value: float | int) -> Tensor | float:
    """``value`` as an operand: a tensor without dimensions, which is cheaper than a Python number, or the number for
    compilers."""
    return value if torch.compiler.is_compiling() else _scalar(value)


@cache
def _scalar(value: float | int) -> Tensor:
    with torch.inference_mode(False):  # else a number first met in inference could not serve in training
        return torch.tensor(value, dtype=torch.float64, device="cpu")  # float64 without dimensions changes no dtype
