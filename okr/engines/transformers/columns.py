"""How the calls of one generation lie over its positions. Pure functions of what each call saw and ran."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from okr.errors import UnsupportedRouter
from okr.traces import NOT_RECORDED


def standing(counts: Sequence[int], length: int, cached: int = 0) -> int | None:
    """The first of the calls whose rows stand for ``length`` positions; None where no reading of the calls fits.

    ``counts``: how many tokens of each sequence every call saw, in order. With a cache the calls follow each other.
    Without one every call sees everything again and one token more; some models also drop their cache midway and
    begin anew like that. The new rows then replace the old ones: what later tokens attend to is what the last call
    made of them, so these rows alone can be replayed. The replaced ones, though the tokens up to there were chosen by
    them, are gone. ``cached``: positions that a cache given from outside already held; no call saw them.
    """
    first, end, reach = None, len(counts), length
    while end:
        start, rest = end, reach
        while start and rest > 0:
            start -= 1
            rest -= counts[start]
        if start == end or (rest != 0 and (start, rest) != (0, cached)):
            return None
        first = start if first is None else first
        end, reach = start, counts[start] - 1  # what a new beginning replaces was one token shorter
    return first


def passes_of(
    routed: Bool[Tensor, " positions"], counts: Sequence[int], lengths: Int[Tensor, " positions"]
) -> list[tuple[int, int]]:
    """For one sequence: how many of its tokens each call saw, and the longest sequence that the call saw.

    ``routed``: which of the batch's positions hold tokens of the sequence that were inputs; ``counts``: positions of
    each call, following each other; ``lengths``: the tokens of the longest sequence up to and with each position.
    """
    ends = _ends(counts)
    own = torch.cat([torch.zeros(1, dtype=torch.long), routed.cumsum(0)])
    seen = own[ends] - own[ends - torch.tensor(counts)]
    found: list[tuple[int, int]] = [
        (int(tokens), int(lengths[end - 1])) for tokens, end in zip(seen, ends, strict=True) if tokens
    ]
    return found


@dataclass(frozen=True)
class Reach:
    """How far the calls of one generation reached that stand for its positions.

    ``counts``: positions of each, one for what a given cache held before them; ``lengths`` [positions]: the longest
    sequence up to and with each position; ``first``: the reach of the first call of all; ``shifted``: some sequence
    does not begin at position 0, so that its padding has positions, too.
    """

    counts: list[int]
    lengths: Int[Tensor, " positions"]
    first: int
    shifted: bool

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        own: Int[Tensor, "batch positions"],
        lengths: Int[Tensor, " positions"],
        told: Sequence[Tensor | None],
        cached: int,
    ) -> "Reach":
        """``counts``: positions of every call; ``own``: tokens of each sequence so far; ``lengths`` as far as they
        follow from these; ``told``: how far each call reached [rows or 1], where a rotary embedding told it."""
        positions = own.shape[1]
        start = standing(counts, positions, cached) or 0
        stand = list(counts[start:])
        if sum(stand) < positions:
            stand = [cached, *stand]  # nobody knows by which passes the given cache was made
        first, shifted = int(lengths[min(cached + counts[0], positions) - 1]), False
        known = [call.cpu() for call in told if call is not None]
        if len(known) == len(counts):
            first, known = int(known[0].max()), known[start:]
            lengths = lengths.clone()
            for call, end in zip(reversed(known), _ends(stand).flip(0), strict=False):
                lengths[end - 1] = max(int(call.max()), int(lengths[end - 1]))
                so_far = own[:, end - 1]
                shifted |= bool(((call != so_far) & (so_far > 1)).any())  # padding may be put at position 1
        return cls(stand, lengths, first, shifted)

    def ends(self) -> list[int]:
        """The longest sequence that each call saw."""
        return [int(length) for length in self.lengths[_ends(self.counts) - 1]]


def _ends(counts: Sequence[int]) -> Int[Tensor, " calls"]:
    return torch.tensor(counts).cumsum(0)


def columns(calls: list[Tensor], batch: int, length: int, cached: int = 0) -> Tensor:
    """The experts of one site over ``length`` positions, int16 [batch, length, k] on the CPU; NOT_RECORDED for the
    first ``cached``, where no call saw them."""
    parts = [call.view(batch, -1, call.shape[-1]) for call in calls if len(call) % batch == 0]
    if len(parts) == len(calls):
        start = standing([part.shape[1] for part in parts], length, cached)
        if start is not None:
            rows = torch.cat(parts[start:], 1).cpu()
            return torch.nn.functional.pad(rows, (0, 0, length - rows.shape[1], 0), value=NOT_RECORDED)
    raise UnsupportedRouter(
        f"the recorded routing ({[len(call) for call in calls][:4]} ... tokens a call) does not cover the "
        f"{batch} x {length} tokens generated; this way of generating cannot be traced"
    )


def stack(sites: list[Tensor]) -> np.ndarray:
    """[tokens, k] per site -> int16 [tokens, sites, largest k], filled up with NOT_RECORDED."""
    if not sites:
        return np.zeros((0, 0, 0), np.int16)
    widest = max(site.shape[-1] for site in sites)
    padded = [torch.nn.functional.pad(site, (0, widest - site.shape[-1]), value=NOT_RECORDED) for site in sites]
    return torch.stack(padded, 1).numpy()
