"""The baselines that bias tokens, as transformers implements them: KGW and SynthID. The only place that touches them.

KGW (Kirchenbauer et al. 2023): half of the vocabulary, chosen by a hash of the token before, gets ``bias`` added. Its
score counts green tokens over distinct (token before, token) pairs; over keys each is green with probability 1/2, and
those of one context are drawn without replacement, which makes the binomial tail slightly too large, never too small.
Null hypothesis: the text was made without knowledge of the key.

SynthID (Dathathri et al. 2024): a tournament over ``depth`` layers, keyed by the four tokens before. Its score is the
mean g-value over distinct contexts; the p-value is the true key's rank among decoy keys of the same law: exact under
the same null hypothesis.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor
from transformers import (
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
    WatermarkLogitsProcessor,
)

GREEN_SHARE = 0.5
NGRAM = 5
SYNTHID_DEPTH = 30
MOST_VALUES = 400_000  # g-values at once: what stays in a cache


@dataclass(frozen=True)
class Kgw:
    """KGW with one ``bias`` under key number ``key``."""

    vocabulary: int
    bias: float
    key: int

    @property
    def hashing_key(self) -> int:
        """The number that transformers seeds its green lists with."""
        return 15485863 + 7919 * self.key

    def config(self) -> WatermarkingConfig:
        """What ``model.generate`` takes."""
        return WatermarkingConfig(greenlist_ratio=GREEN_SHARE, bias=self.bias, hashing_key=self.hashing_key)

    def processor(self) -> Any:
        """transformers' processor on the CPU."""
        found = copy(_kgw_processor(self.vocabulary))
        found.bias, found.hash_key = self.bias, self.hashing_key
        return found

    def green(self, contexts: Int[Tensor, " n"]) -> Bool[Tensor, "n vocabulary"]:
        """The green list after each context token."""
        processor = self.processor()
        found = torch.zeros(len(contexts), self.vocabulary, dtype=torch.bool)
        for row, context in enumerate(contexts.view(-1, 1)):
            found[row, processor._get_greenlist_ids(context)] = True
        return found

    def counts(self, tokens: Sequence[int], start: int) -> Int[np.ndarray, "new 2"]:
        """For every token from ``start`` on: whether it is the first of its pair, and green as well."""
        processor = self.processor()
        row = torch.tensor(tokens)
        seen: set[tuple[int, int]] = set()
        found = []
        for place in range(start, len(row)):
            pair = (int(row[place - 1]), int(row[place]))
            fresh = pair not in seen
            seen.add(pair)
            hit = fresh and bool((processor._get_greenlist_ids(row[place - 1 : place]) == pair[1]).any())
            found.append((fresh, hit))
        return np.array(found, int).reshape(-1, 2)

    def p_value(self, counts: Int[np.ndarray, "new 2"]) -> float:
        """The exact binomial tail of the green ones among the distinct pairs."""
        fresh, hits = counts.sum(0) if len(counts) else (0, 0)
        green = int(self.vocabulary * GREEN_SHARE) / self.vocabulary
        return float(stats.binom.sf(hits - 1, fresh, green))


@lru_cache(maxsize=1)
def _kgw_processor(vocabulary: int) -> Any:
    """The processor of any key. It fills a table of a million entries that its scheme, ``lefthash``, does not read."""
    return WatermarkLogitsProcessor(
        vocab_size=vocabulary, device="cpu", greenlist_ratio=GREEN_SHARE, seeding_scheme="lefthash"
    )


@dataclass(frozen=True)
class SynthId:
    """SynthID with tournaments of ``depth`` layers under key number ``key``."""

    depth: int
    key: int

    def config(self) -> SynthIDTextWatermarkingConfig:
        """What ``model.generate`` takes."""
        return SynthIDTextWatermarkingConfig(ngram_len=NGRAM, keys=_layer_keys("synthid", self.key, self.depth))

    def p_values(
        self, texts: Sequence[Sequence[int]], lengths: Sequence[int], decoys: int
    ) -> Float[np.ndarray, "texts lengths"]:
        """The exact p-value of the first ``lengths`` new tokens of every text (new tokens only)."""
        longest = max(len(text) for text in texts)
        # transformers begins generation with an empty context of zeros
        padded = torch.zeros(len(texts), NGRAM - 1 + longest, dtype=torch.long)
        counted = torch.zeros(len(texts), longest)
        for row, text in enumerate(texts):
            padded[row, NGRAM - 1 : NGRAM - 1 + len(text)] = torch.tensor(text)
            counted[row] = _fresh_contexts(padded[row], len(text), longest)
        keys = [_layer_keys("synthid", self.key, self.depth)]
        keys += [_layer_keys(f"decoy {self.key}", number, self.depth) for number in range(decoys)]
        block = max(1, MOST_VALUES // (padded.numel() * self.depth))
        parts = [self._means(padded, counted, keys[n : n + block], lengths) for n in range(0, len(keys), block)]
        everyone = np.concatenate(parts)
        p: np.ndarray = (1 + (everyone[1:] >= everyone[0]).sum(0)) / (decoys + 1)
        return p

    def mean_g(self, text: Sequence[int]) -> float:
        """The mean g-value over distinct contexts of a whole text: the score that ``p_values`` ranks."""
        padded = torch.tensor([[0] * (NGRAM - 1) + list(text)])
        counted = _fresh_contexts(padded[0], len(text), len(text))
        keys = [_layer_keys("synthid", self.key, self.depth)]
        return float(self._means(padded, counted[None], keys, [len(text)])[0, 0, 0]) / max(1.0, float(counted.sum()))

    def _means(
        self, padded: Tensor, counted: Tensor, keys: Sequence[list[int]], lengths: Sequence[int]
    ) -> Float[np.ndarray, "keys texts lengths"]:
        """The summed g-values of the first ``lengths`` tokens, averaged over layers. Layers are hashed one by one, so
        those of many keys are hashed in one call."""
        values = processor([layer for one in keys for layer in one]).compute_g_values(padded)
        by_key = values.unflatten(-1, (len(keys), self.depth)).float().mean(-1)
        sums = (by_key * counted[..., None]).cumsum(1)
        places = torch.tensor([min(length, sums.shape[1]) - 1 for length in lengths])
        means: np.ndarray = sums[:, places].permute(2, 0, 1).numpy()
        return means


def processor(keys: list[int]) -> Any:
    """transformers' processor on the CPU with these layer keys."""
    config = SynthIDTextWatermarkingConfig(ngram_len=NGRAM, keys=keys)
    return config.construct_processor(1, torch.device("cpu"))


def _fresh_contexts(padded: Int[Tensor, " n"], tokens: int, longest: int) -> Float[Tensor, " longest"]:
    """1 where a token's context of NGRAM - 1 tokens occurs for the first time, 0 elsewhere and behind the text."""
    seen: set[tuple[int, ...]] = set()
    fresh = torch.zeros(longest)
    for place in range(tokens):
        context = tuple(padded[place : place + NGRAM - 1].tolist())
        fresh[place] = context not in seen
        seen.add(context)
    return fresh


def _layer_keys(kind: str, number: int, depth: int) -> list[int]:
    """Layer keys drawn from a law that is the same for the true key and its decoys."""
    seed = int.from_bytes(f"{kind} {number}".encode().ljust(24, b".")[:24], "big")
    return [int(key) for key in np.random.default_rng(seed).integers(1, 2**31, depth)]
