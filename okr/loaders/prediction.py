"""Computes what a model predicts of a given text: its logits at every token, given the tokens before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from okr.discovery import input_device
from okr.loaders.expert_counts import generation_defaults
from okr.loaders.loading import Loaded

MAX_TOKENS = 256  # the most tokens that are read of a passage
SOURCE_WORDS = 48  # how many words of a passage an encoder reads; its decoder predicts the rest


@dataclass(frozen=True)
class Predicted:
    """The ``logits`` [n, V] that a model gives for ``targets``, int64 [n]. ``inputs``, int64 [n], are the decoder's
    tokens before each target. All are on one device."""

    logits: Float[Tensor, "n vocabulary"]
    targets: Int[Tensor, " n"]
    inputs: Int[Tensor, " n"]

    def loss(self, logits: Float[Tensor, "m vocabulary"] | None = None) -> float:
        """The mean negative log-likelihood of the targets, in nats per token. ``logits`` [m, V] replace the model's own
        if given; with m < n they are those of the first m targets."""
        chosen = self.logits if logits is None else logits
        return float(cross_entropy(chosen.float(), self.targets[: len(chosen)]))


@torch.no_grad()
def predict(loaded: Loaded, before: Sequence[int], own: Sequence[int]) -> Predicted:
    """What the model predicts at every token of ``own``, which follows ``before``. Both are token ids and not empty.

    An encoder-decoder reads ``before`` with its encoder, and its decoder begins with ``own``. A decoder-only model
    reads both as one sequence.
    """
    device = input_device(loaded.model)

    def ids(tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=device)

    if loaded.model.config.is_encoder_decoder:
        last: int = generation_defaults(loaded.model)["decoder_start_token_id"]
        read: dict[str, Any] = {"input_ids": ids(before), "decoder_input_ids": ids([last, *own[:-1]])}
        first = 0
    else:
        last, first = before[-1], len(before) - 1
        read = {"input_ids": ids([*before, *own]), "use_cache": False}
    logits = loaded.model(**read).logits[0, first : first + len(own)]
    targets, inputs = (ids(tokens)[0].to(logits.device) for tokens in (own, [last, *own[:-1]]))
    return Predicted(logits, targets, inputs)


def passage_tokens(loaded: Loaded, text: str) -> tuple[list[int], list[int]]:
    """The token ids of ``text`` in two parts: what is given and what is predicted. For a decoder-only model the first
    token is given. An encoder-decoder reads the first SOURCE_WORDS words and predicts the rest. Each part is cut to
    MAX_TOKENS tokens."""

    def ids(part: str) -> list[int]:
        return list(loaded.tokenizer(part, truncation=True, max_length=MAX_TOKENS)["input_ids"])

    if not loaded.model.config.is_encoder_decoder:
        whole = ids(text)
        return whole[:1], whole[1:]
    words = text.split()
    return ids(" ".join(words[:SOURCE_WORDS])), ids(" ".join(words[SOURCE_WORDS:]))


def predict_passage(loaded: Loaded, text: str) -> Predicted:
    """What the model predicts of ``text``, parted by :func:`passage_tokens`."""
    return predict(loaded, *passage_tokens(loaded, text))


def passage_loss(loaded: Loaded, text: str) -> tuple[float, int]:
    """The mean negative log-likelihood of ``text``, in nats per token, and the number of tokens predicted."""
    found = predict_passage(loaded, text)
    return found.loss(), len(found.targets)
