"""Draws decoys: random images of the claimed key (spec chapter VERIFY)."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from okr.discovery import RouterSite

BLOCK = 1024
"""Images of a site that are drawn and counted at a time. A thousand decoys fit one block."""


@dataclass(frozen=True)
class Decoys:
    """Random images of a site's projection: its columns are permuted and their signs changed. Image 0 is the claimed
    key itself.

    No image costs a matrix product. Its key scores are the claimed key's, permuted and with signs changed, without
    rounding. ``columns`` is int64 [keys, E] and ``signs`` float32 [keys, E] of +1 and -1, on the CPU.
    """

    columns: Int[Tensor, "keys experts"]
    signs: Float[Tensor, "keys experts"]

    @classmethod
    def draw(cls, count: int, experts: int, seed: bytes) -> "Decoys":
        """Draw ``count`` images of a projection with ``experts`` columns, after the identity. ``seed`` decides them,
        and they are drawn on the CPU, so they are the same for every device."""
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") >> 1)
        columns = torch.rand(count + 1, experts, generator=generator).argsort(-1)
        signs = torch.randint(0, 2, (count + 1, experts), generator=generator).float() * 2 - 1
        columns[0], signs[0] = torch.arange(experts), 1.0
        return cls(columns, signs)

    def part(self, first: int, last: int) -> "Decoys":
        """The images ``first`` to ``last`` - 1."""
        return Decoys(self.columns[first:last], self.signs[first:last])

    def scores(
        self, claimed: Float[Tensor, "tokens experts"], first: int, last: int
    ) -> Float[Tensor, "tokens keys experts"]:
        """The key scores of the images ``first`` to ``last`` - 1, given the ``claimed`` key's scores."""
        columns = self.columns[first:last].to(claimed.device)
        signs = self.signs[first:last].to(claimed.device)
        return claimed.index_select(-1, columns.flatten()).view(len(claimed), *columns.shape).mul_(signs)

    def by_row(self, claimed: Float[Tensor, "rows tokens experts"], first: int) -> Float[Tensor, "rows tokens experts"]:
        """The key scores of image ``first`` + r in row r, given the claimed key's scores in every row."""
        columns = self.columns[first : first + len(claimed)].to(claimed.device)
        signs = self.signs[first : first + len(claimed)].to(claimed.device)
        return claimed.gather(-1, columns[:, None].expand_as(claimed)) * signs[:, None]


class DecoyBlocks:
    """``count`` decoys of a key and the key itself at one site, drawn from ``seed`` in blocks of BLOCK images. Image 0
    of the first block is the claimed key itself.

    Every block but the first is drawn anew each time, so memory does not grow with ``count``.
    """

    def __init__(self, count: int, experts: int, seed: bytes) -> None:
        self.keys, self.experts, self.seed = count + 1, experts, seed
        self._first = Decoys.draw(min(self.keys, BLOCK) - 1, experts, seed)

    def __iter__(self) -> Iterator[tuple[slice, Decoys]]:
        """Each block, with the places of its images among all."""
        yield slice(0, len(self._first.columns)), self._first
        for start in range(BLOCK, self.keys, BLOCK):
            size = min(BLOCK, self.keys - start)
            drawn = Decoys.draw(size, self.experts, hashlib.sha256(self.seed + b"%d" % start).digest())
            yield slice(start, start + size), drawn.part(1, size + 1)


def site_seed(seed: bytes, path: str) -> bytes:
    """The seed of a site's decoys, from the ``seed`` of the test and the site's path."""
    return hashlib.sha256(seed + path.encode()).digest()


def draw_decoys(count: int, sites: Sequence[RouterSite], seed: bytes) -> list[Decoys]:
    """``count`` decoys of a key and the key itself at each of ``sites``, drawn from ``seed``."""
    return [Decoys.draw(count, site.num_experts, site_seed(seed, site.path)) for site in sites]
