"""What the watermark costs: held-out loss of human text, keyed and unkeyed, on the same passages."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy

from okr.attach.replay import input_device
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
    """Mean negative log-likelihood of ``text`` in nats per token, and how many tokens were predicted.

    An encoder-decoder predicts the words after the first SOURCE_WORDS, given those.
    """
    model, tokenizer = loaded.model, loaded.tokenizer

    def ids(part: str) -> Tensor:
        encoded = tokenizer(part, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        row: Tensor = encoded["input_ids"].to(input_device(model))
        return row

    if model.config.is_encoder_decoder:
        words = text.split()
        source, target = ids(" ".join(words[:SOURCE_WORDS])), ids(" ".join(words[SOURCE_WORDS:]))
        start = torch.full_like(target[:, :1], generation_defaults(model)["decoder_start_token_id"])
        logits = model(input_ids=source, decoder_input_ids=torch.cat([start, target[:, :-1]], 1)).logits
    else:
        everything = ids(text)
        target = everything[:, 1:]
        logits = model(input_ids=everything, use_cache=False).logits[:, :-1]
    loss = cross_entropy(logits[0].float(), target[0].to(logits.device))
    return float(loss), target.shape[1]


def paired_interval(keyed: Sequence[float], unkeyed: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the paired differences keyed - unkeyed and its 95% interval (Student's t over passages)."""
    difference = np.asarray(keyed) - np.asarray(unkeyed)
    mean, error = float(difference.mean()), float(stats.sem(difference))
    if not error > 0 or math.isnan(error):
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(difference) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)
