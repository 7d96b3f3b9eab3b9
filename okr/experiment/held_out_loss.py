"""What the watermark costs: held-out loss of human text, keyed and unkeyed, on the same passages."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from okr.discovery import input_device
from okr.experiment.sampling import GROUPS, Subject, session
from okr.loaders import Loaded, generation_defaults, passages

MAX_TOKENS = 256  # of a passage
SOURCE_WORDS = 48  # what an encoder reads; its decoder predicts the rest


def measure(subject: Subject, advance: Callable[[], None]) -> dict[str, Any]:
    """The journal record of both losses, one number a passage; ``advance`` is called after each passage."""
    texts = [passage.text for passage in passages(subject.config.quality_passages)]
    losses: dict[str, list[float]] = {}
    tokens = 0
    for group in GROUPS:
        with session(subject, group):
            measured = []
            for text in texts:
                measured.append(passage_loss(subject.loaded, text))
                advance()
        losses[group] = [loss for loss, _ in measured]
        tokens = sum(count for _, count in measured)
    return {"kind": "quality", "tokens": tokens, "keyed": losses["watermarked"], "unkeyed": losses["control"]}


@torch.no_grad()
def passage_loss(loaded: Loaded, text: str) -> tuple[float, int]:
    """Mean negative log-likelihood of ``text`` in nats per token, and how many tokens were predicted."""
    logits, target = passage_logits(loaded, text)
    return float(cross_entropy(logits.float(), target)), len(target)


@torch.no_grad()
def passage_logits(loaded: Loaded, text: str) -> tuple[Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]]:
    """The model's logits at every token of ``text`` that it predicts, and those tokens.

    An encoder-decoder predicts the words after the first SOURCE_WORDS, given those.
    """
    arguments, target = passage_inputs(loaded, text)
    logits = loaded.model(**arguments).logits[0, : len(target)]
    return logits, target.to(logits.device)


def passage_inputs(loaded: Loaded, text: str) -> tuple[dict[str, Any], Int[Tensor, " tokens"]]:
    """What the model is called with for ``text``, and the tokens it then predicts, in order."""
    model, tokenizer = loaded.model, loaded.tokenizer

    def ids(part: str) -> Tensor:
        encoded = tokenizer(part, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        row: Tensor = encoded["input_ids"].to(input_device(model))
        return row

    if not model.config.is_encoder_decoder:
        everything = ids(text)
        return {"input_ids": everything, "use_cache": False}, everything[0, 1:]
    words = text.split()
    source, target = ids(" ".join(words[:SOURCE_WORDS])), ids(" ".join(words[SOURCE_WORDS:]))
    start = torch.full_like(target[:, :1], generation_defaults(model)["decoder_start_token_id"])
    return {"input_ids": source, "decoder_input_ids": torch.cat([start, target[:, :-1]], 1)}, target[0]
