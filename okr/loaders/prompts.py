"""Encodes prompts for a model, and gives the arguments with which it continues them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from okr.discovery import input_device
from okr.errors import InvalidConfig
from okr.loaders.expert_counts import generation_defaults
from okr.loaders.loading import Loaded


def encode(loaded: Loaded, prompts: Sequence[str], new_tokens: int) -> dict[str, Tensor]:
    """The prompts as :func:`padded` gives them, each cut so that ``new_tokens`` more fit into the model.

    Raises InvalidConfig if there is no room for a prompt.
    """
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    if positions is None or loaded.model.config.is_encoder_decoder:
        return padded(loaded, prompts, positions)
    if positions - new_tokens < 1:
        raise InvalidConfig(
            f"a length of {new_tokens} new tokens leaves no room for a prompt: the model has {positions} positions"
        )
    return padded(loaded, prompts, positions - new_tokens)


def padded(loaded: Loaded, prompts: Sequence[str], longest: int | None) -> dict[str, Tensor]:
    """The prompts as ``input_ids`` and ``attention_mask``, int64 [prompts, tokens], on the model's device. Each prompt
    is cut to ``longest`` tokens; None cuts none. A decoder-only model gets padding on the left, so that new tokens
    follow the prompt."""
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "right" if loaded.model.config.is_encoder_decoder else "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        list(prompts), return_tensors="pt", padding=True, truncation=longest is not None, max_length=longest
    )
    device = input_device(loaded.model)
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}


def sampling(loaded: Loaded, new_tokens: int, temperature: float) -> dict[str, Any]:
    """The arguments of ``generate`` that sample exactly ``new_tokens`` tokens at ``temperature``, without top-k or
    top-p."""
    return generation_defaults(loaded.model) | {
        "do_sample": True,
        "temperature": temperature,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "max_length": None,
    }
