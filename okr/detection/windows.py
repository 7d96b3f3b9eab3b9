"""Tests a claimed key in many windows of one trace at once (spec chapter EVIDENCE).

The windows follow from the number of tokens alone. Their lengths are powers of two and three halves of these, up to
``LONGEST`` tokens, and the whole. Each length has an equal share of alpha, and so has each window of a length
(Bonferroni's correction). So the probability that any window without a keyed token gets a p-value of at most alpha is
at most alpha, however windows overlap and tokens depend on each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.detection.evidence import SiteEvidence
from okr.detection.swaps import sign_sum_p_values, swap_weights, swaps_of_random_keys
from okr.engines.choice import Projector
from okr.routing import Key
from okr.routing.scores import TINY

LONGEST = 512
"""The longest window in tokens, but for the one that holds the whole trace. It bounds the memory."""

BREAK = 8.0
"""A window does not count across consecutive tokens without a swap at which random keys would make this many swaps. A
key would have to make none there by chance, with a probability of about exp(-8)."""

CANCELLED = 1e-6
"""A squared norm ||W||^2 up to this size is taken for 0: the swaps of the window cancel."""

_PART = 2048  # rows whose part of W is summed at once


@dataclass(frozen=True)
class Windows:
    """Windows over tokens 0 to n - 1.

    Attributes:
        starts: the first token of each.
        ends: the token after the last of each.
        tests: by how much the p-value of each is multiplied.
    """

    starts: Int[np.ndarray, " windows"]
    ends: Int[np.ndarray, " windows"]
    tests: Int[np.ndarray, " windows"]

    @classmethod
    def over(cls, tokens: int) -> "Windows":
        """The windows over ``tokens`` tokens. There are about nine for each token."""
        lengths = _lengths(tokens)
        starts = [np.arange(0, tokens - length + 1, _step(length)) for length in lengths]
        counts = [len(part) for part in starts]
        return cls(
            starts=np.concatenate([*starts, np.zeros(0, np.int64)]),
            ends=np.concatenate(
                [*(part + length for part, length in zip(starts, lengths, strict=True)), np.zeros(0, np.int64)]
            ),
            tests=np.repeat(np.array(counts, np.int64) * len(lengths), counts),
        )

    def sums(self, values: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " windows"]:
        """The sum of ``values`` in each window."""
        total = np.concatenate(([0.0], values.cumsum()))
        return np.asarray(total[self.ends] - total[self.starts])

    def without_edges(self, holds: Bool[np.ndarray, " tokens"]) -> "Windows":
        """Each window from its first to its last token that ``holds``. Those without such a token are left out."""
        places = np.flatnonzero(holds)
        first, after = np.searchsorted(places, self.starts), np.searchsorted(places, self.ends)
        kept = after > first
        return Windows(places[first[kept]], places[after[kept] - 1] + 1, self.tests[kept])


def _lengths(tokens: int) -> list[int]:
    """The lengths of windows over ``tokens`` tokens, in order: 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on, and the
    whole."""
    powers = {2**power for power in range(LONGEST.bit_length())}
    found = {length for power in powers for length in (power, 3 * power) if length <= min(LONGEST, tokens)}
    return sorted(found | {tokens} - {0})


def _step(length: int) -> int:
    """The distance between the starts of windows of ``length`` tokens: the largest power of two that is at most an
    eighth of it, or 1."""
    return max(1, 2 ** ((length // 8).bit_length() - 1)) if length >= 8 else 1


@dataclass(frozen=True)
class _SiteSwaps:
    """The R tokens with a swap that counts at one site: their places, states [R, d] and weights [R, E]."""

    tokens: Int[Tensor, " rows"]
    hidden: Float[Tensor, "rows hidden_size"]
    weights: Float[Tensor, "rows experts"]

    def part(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """The places of the rows within the tokens ``first`` to ``last`` - 1, less ``first``; their normed states and
        their weights in float64."""
        rows = slice(*torch.searchsorted(self.tokens, torch.tensor([first, last])).tolist())
        states = self.hidden[rows].double()
        states = states / torch.linalg.vector_norm(states, dim=-1, keepdim=True).clamp_min(TINY)
        return self.tokens[rows] - first, states, self.weights[rows].double()


class TokenSwaps:
    """The swap evidence of one key in one trace, token by token.

    Attributes:
        tokens: how many decoder tokens count.
        sums: what each token adds to S, float64 [tokens].
        swapped: how many experts were swapped in at each token and count, float64 [tokens].
        counting: at which tokens an expert that was swapped in or out counts, bool [tokens].
        expected: how many swaps random keys would make at each token, float64 [tokens].
    """

    def __init__(self, sites: Sequence[SiteEvidence], key: Key, first: int, tokens: int) -> None:
        self.tokens = tokens
        self.sums, self.swapped, self.expected = np.zeros((3, tokens))
        self.counting = np.zeros(tokens, bool)
        self._sites = []
        for evidence in sites:
            here = evidence.tokens.cpu() >= 0  # an encoder's tokens are not in the text
            places = (evidence.tokens.cpu()[here] - first).numpy()
            np.add.at(self.expected, places, swaps_of_random_keys(evidence)[here].numpy())
            weights = swap_weights(evidence).cpu()[here]
            rows = weights.any(-1)
            found = _SiteSwaps(torch.from_numpy(places)[rows], evidence.hidden.cpu()[here][rows], weights[rows].float())
            self.counting[found.tokens.numpy()] = True
            np.add.at(self.swapped, found.tokens.numpy(), (found.weights > 0).sum(-1).double().numpy())
            signs = Projector(evidence.site, key).signs.double().cpu()
            for begin in range(0, tokens, _PART):
                part, states, weights = found.part(begin, begin + _PART)
                np.add.at(self.sums, (part + begin).numpy(), ((states @ signs) * weights).sum(-1).numpy())
            self._sites.append(found)

    def squared_norms(self, windows: Windows) -> Float[np.ndarray, " windows"]:
        """||W||^2 of each window, float64 [windows]."""
        norms = np.zeros(len(windows.starts))
        lengths = windows.ends - windows.starts
        for begin in range(0, self.tokens, LONGEST):
            here = (windows.starts >= begin) & (windows.starts < begin + LONGEST) & (lengths <= LONGEST)
            if here.any():
                corners = self._products(begin, min(begin + 2 * LONGEST, self.tokens))
                a, b = windows.starts[here] - begin, windows.ends[here] - begin
                norms[here] = corners[b, b] - corners[a, b] - corners[b, a] + corners[a, a]
        for index in np.flatnonzero(lengths > LONGEST):
            norms[index] = self._squared_norm(int(windows.starts[index]), int(windows.ends[index]))
        return norms

    def _products(self, first: int, last: int) -> Float[np.ndarray, "corners corners"]:
        """The inner products of the parts of W of the tokens ``first`` to ``last`` - 1, summed from the first token on
        in both directions; float64 [tokens + 1, tokens + 1]."""
        products = torch.zeros(last - first + 1, last - first + 1, dtype=torch.float64)
        for site in self._sites:
            tokens, states, weights = site.part(first, last)
            alike = (states @ states.T).mul_(weights @ weights.T)
            products[tokens[:, None] + 1, tokens[None] + 1] += alike
        return np.asarray(products.cumsum(0).cumsum(1).numpy())

    def _squared_norm(self, first: int, last: int) -> float:
        """||W||^2 of the tokens ``first`` to ``last`` - 1."""
        squared = 0.0
        for site in self._sites:
            total = torch.zeros(site.hidden.shape[1], site.weights.shape[1], dtype=torch.float64)
            for begin in range(first, last, _PART):
                _, states, weights = site.part(begin, min(begin + _PART, last))
                total += states.T @ weights
            squared += float(total.square().sum())
        return squared

    def p_values(self) -> tuple[Windows, Float[np.ndarray, " windows"]]:
        """The windows in which something was swapped, without edges where nothing was, and the family-wise p-value of
        each (OKR-EVIDENCE-009)."""
        windows = Windows.over(self.tokens).without_edges(self.counting)
        norms = self.squared_norms(windows)
        counts = (norms > CANCELLED) & ~self._broken(windows)
        p = sign_sum_p_values(torch.from_numpy(windows.sums(self.sums)), torch.from_numpy(norms)).numpy()
        return windows, np.where(counts, np.minimum(1.0, windows.tests * p), 1.0)

    def _broken(self, windows: Windows) -> Bool[np.ndarray, " windows"]:
        """Which windows, without their edges, hold a run of tokens without a swap as ``BREAK`` says."""
        places = np.flatnonzero(self.counting)
        idle = np.where(self.counting, 0.0, self.expected).cumsum()
        breaks = np.zeros(self.tokens + 1, np.int64)
        breaks[places[1:] + 1] = np.diff(idle[places]) >= BREAK  # the run ends before this token
        total = breaks.cumsum()
        return np.asarray(total[windows.ends] > total[windows.starts + 1])
