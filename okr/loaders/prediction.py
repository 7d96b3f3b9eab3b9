"""What a model predicts of text that is there already: its logits at every token, given those before it."""

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

MAX_TOKENS = 256  # of a passage
SOURCE_WORDS = 48  # what an encoder reads of a passage; its decoder predicts the rest


@dataclass(frozen=True)
class Predicted:
    """``logits`` [n, V] of ``targets``, int64 [n], all on one device. ``inputs``, int64 [n], is the decoder's token
    before each target."""

    logits: Float[Tensor, "n vocabulary"]
    targets: Int[Tensor, " n"]
    inputs: Int[Tensor, " n"]

    def loss(self, logits: Float[Tensor, "m vocabulary"] | None = None) -> float:
        """Mean negative log-likelihood of the targets in nats per token. ``logits`` may stand in for the model's own;
        where there are fewer of them, the first so many targets count."""
        chosen = self.logits if logits is None else logits
        return float(cross_entropy(chosen.float(), self.targets[: len(chosen)]))


@torch.no_grad()
def predict(loaded: Loaded, before: Sequence[int], own: Sequence[int]) -> Predicted:
    """What the model predicts at every token of ``own``, which follows ``before``: both token ids, not empty.

    An encoder reads ``before``, and the decoder begins with ``own``; a decoder-only model reads one after the other.
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


def predict_passage(loaded: Loaded, text: str) -> Predicted:
    """What the model predicts of ``text``: every token but the first. An encoder-decoder predicts the words after the
    first SOURCE_WORDS, given those. Each part is cut to MAX_TOKENS."""

    def ids(part: str) -> list[int]:
        return list(loaded.tokenizer(part, truncation=True, max_length=MAX_TOKENS)["input_ids"])

    if not loaded.model.config.is_encoder_decoder:
        first, *rest = ids(text)
        return predict(loaded, [first], rest)
    words = text.split()
    return predict(loaded, ids(" ".join(words[:SOURCE_WORDS])), ids(" ".join(words[SOURCE_WORDS:])))


def passage_loss(loaded: Loaded, text: str) -> tuple[float, int]:
    """Mean negative log-likelihood of ``text`` in nats per token, and how many tokens were predicted."""
    found = predict_passage(loaded, text)
    return found.loss(), len(found.targets)
