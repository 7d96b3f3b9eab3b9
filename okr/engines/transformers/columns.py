"""Maps what each call of a generation saw and ran to the positions of the sequences. All functions are pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from okr.errors import UnsupportedRouter
from okr.traces import NOT_RECORDED


def standing(counts: Sequence[int], length: int, cached: int = 0) -> int | None:
    """The index of the first call whose rows make up the ``length`` positions of the sequences, or None if the calls do
    not fit.

    ``counts`` is how many tokens of each sequence each call saw, in order. ``cached`` is how many positions a cache
    given by the caller held; no call saw these.

    With a cache, each call continues where the last one ended. Without a cache, each call sees all tokens again and one
    more. Some models drop their cache midway and begin anew in that way. A new beginning replaces the rows of the calls
    before it: later tokens attend to the states that it made, so only its rows can be replayed. The experts of the
    replaced calls are lost, although the earlier tokens came from them. For example, counts of [5, 1, 7, 1] have a new
    beginning at the 7, and with a length of 8 the result is 2.
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
        end, reach = start, counts[start] - 1  # the calls before a new beginning saw one token less
    return first


def passes_of(
    routed: Bool[Tensor, " positions"], counts: Sequence[int], lengths: Int[Tensor, " positions"]
) -> list[tuple[int, int]]:
    """The forward passes of one sequence: for each call, how many of its tokens the call saw, and the longest sequence
    in the batch that the call saw.

    ``routed`` says which positions hold tokens of the sequence that were inputs. ``counts`` is how many positions each
    call covers, one call after another. ``lengths`` is, for each position, the number of tokens in the longest sequence
    up to and with it.
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
    """How far the final calls of a generation reached in the sequences.

    ``counts`` is how many positions each call covers; a first entry stands for what a given cache held. ``lengths``
    [positions] is the length of the longest sequence up to and with each position. ``first`` is the reach of the very
    first call. ``shifted`` is True if some sequence does not begin at position 0, so that its padding has positions
    too.
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
        """The reach of calls that cover ``counts`` positions each.

        ``own`` is how many tokens each sequence has up to each position. ``lengths`` is the longest of them as far as
        it follows from ``own``. ``told`` is the reach [rows or 1] of each call as a rotary embedding saw it, or None
        for a call without one. ``cached`` is how many positions a given cache held.
        """
        positions = own.shape[1]
        start = standing(counts, positions, cached) or 0
        stand = list(counts[start:])
        if sum(stand) < positions:
            stand = [cached, *stand]  # the passes that made the given cache are not known
        first, shifted = int(lengths[min(cached + counts[0], positions) - 1]), False
        known = [call.cpu() for call in told if call is not None]
        if len(known) == len(counts):
            first, known = int(known[0].max()), known[start:]
            lengths = lengths.clone()
            for call, end in zip(reversed(known), _ends(stand).flip(0), strict=False):
                lengths[end - 1] = max(int(call.max()), int(lengths[end - 1]))
                so_far = own[:, end - 1]
                shifted |= bool(((call != so_far) & (so_far > 1)).any())  # models may put padding at position 1
        return cls(stand, lengths, first, shifted)

    def ends(self) -> list[int]:
        """The length of the longest sequence that each call saw."""
        return [int(length) for length in self.lengths[_ends(self.counts) - 1]]


def _ends(counts: Sequence[int]) -> Int[Tensor, " calls"]:
    """The position behind the last one of each call."""
    return torch.tensor(counts).cumsum(0)


def columns(calls: list[Tensor], batch: int, length: int, cached: int = 0) -> Tensor:
    """The experts of one site at ``length`` positions, int16 [batch, length, k] on the CPU. The first ``cached``
    positions, which no call saw, are NOT_RECORDED.

    Raises UnsupportedRouter if the calls do not cover the positions.
    """
    parts = [call.view(batch, -1, call.shape[-1]) for call in calls if len(call) % batch == 0]
    if len(parts) == len(calls):
        start = standing([part.shape[1] for part in parts], length, cached)
        if start is not None:
            rows = torch.cat(parts[start:], 1).cpu()
            return torch.nn.functional.pad(rows, (0, 0, length - rows.shape[1], 0), value=NOT_RECORDED)
    raise UnsupportedRouter(
        f"the recorded routing (calls of {[len(call) for call in calls][:4]} ... tokens) does not cover the "
        f"{batch} x {length} tokens generated; this way of generating cannot be traced"
    )


def stack(sites: list[Tensor], tokens: int) -> np.ndarray:
    """The experts of all sites, int16 [tokens, sites, largest k], from [tokens, k] for each. Shorter rows are filled up
    with NOT_RECORDED."""
    if not sites:
        return np.zeros((tokens, 0, 0), np.int16)
    widest = max(site.shape[-1] for site in sites)
    padded = [torch.nn.functional.pad(site, (0, widest - site.shape[-1]), value=NOT_RECORDED) for site in sites]
    return torch.stack(padded, 1).numpy()
