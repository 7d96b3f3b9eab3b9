"""Decoy keys and the statistic they share with the claimed key (spec chapter VERIFY)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.routing import preference


@dataclass(frozen=True)
class Decoys:
    """Random images of a site's projection: columns permuted, signs changed. Image 0 is the claimed key itself.

    One draw costs no matrix product: the key scores of an image are the claimed key's, permuted and with signs
    changed, without any rounding.
    """

    columns: Int[Tensor, "keys experts"]
    signs: Float[Tensor, "keys experts"]

    @classmethod
    def draw(cls, count: int, experts: int, seed: bytes) -> "Decoys":
        """``count`` images and the identity, drawn from ``seed`` on the CPU, so that every device sees the same."""
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") >> 1)
        columns = torch.rand(count + 1, experts, generator=generator).argsort(-1)
        signs = torch.randint(0, 2, (count + 1, experts), generator=generator).float() * 2 - 1
        columns[0], signs[0] = torch.arange(experts), 1.0
        return cls(columns, signs)

    def scores(
        self, claimed: Float[Tensor, "tokens experts"], first: int, last: int
    ) -> Float[Tensor, "tokens keys experts"]:
        """Key scores of the images ``first`` to ``last`` - 1, given the claimed key's."""
        columns = self.columns[first:last].to(claimed.device)
        signs = self.signs[first:last].to(claimed.device)
        return claimed.index_select(-1, columns.flatten()).view(len(claimed), *columns.shape).mul_(signs)

    def by_row(self, claimed: Float[Tensor, "rows tokens experts"], first: int) -> Float[Tensor, "rows tokens experts"]:
        """Key scores of image ``first`` + r in row r, given the claimed key's in every row."""
        columns = self.columns[first : first + len(claimed)].to(claimed.device)
        signs = self.signs[first : first + len(claimed)].to(claimed.device)
        return claimed.gather(-1, columns[:, None].expand_as(claimed)) * signs[:, None]


def matches(
    choice: Float[Tensor, "tokens experts"],
    scores: Float[Tensor, "tokens keys experts"],
    experts: Int[Tensor, "tokens top_k"],
    pool: Bool[Tensor, "tokens experts"],
    locked: Bool[Tensor, "tokens experts"],
    strength: float,
) -> tuple[Int[Tensor, "tokens keys"], Float[Tensor, "tokens keys"]]:
    """For every token and key: how many free slots hold an expert that the key prefers, and by how much the key
    prefers what ran (the summed preference of the pool's experts that ran), which orders keys with equal counts.

    ``experts`` are those that ran, at opportunities only. An expert of the pool is preferred if its preference is
    among the pool's k - locked largest, so among the k largest once locked experts come before all others.
    """
    rank = preference(choice[:, None], scores, strength)
    ran = rank.gather(-1, experts[:, None].expand(-1, rank.shape[1], -1))
    free_slot = pool.gather(-1, experts)[:, None]
    rank = rank.masked_fill(~(pool | locked)[:, None], -math.inf).masked_fill_(locked[:, None], math.inf)
    threshold = _kth_largest(rank, experts.shape[-1])
    hits = ((ran >= threshold[..., None]) & free_slot).sum(-1)
    free = experts.shape[-1] - locked.sum(-1)
    return torch.minimum(hits, free[:, None]), (ran * free_slot).sum(-1)


def _kth_largest(rank: Float[Tensor, "tokens keys experts"], k: int) -> Float[Tensor, "tokens keys"]:
    """The k-th largest over the experts. NumPy's partition is some ten times faster than torch's top-k on a CPU."""
    place = rank.shape[-1] - k
    if rank.device.type == "cpu":
        return torch.from_numpy(np.partition(rank.numpy(), place, axis=-1)[..., place].copy())
    return rank.topk(k, dim=-1).values[..., -1]
