"""What the system clauses are tried on: traces and texts made with tiny models, and what is seen of a model."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .models import (
    capacity_model,
    deep_model,
    dense_model,
    encoder_model,
    every_model,
    growing_model,
    made,
    mixed_model,
    models,
    new_models,
    scaled_model,
    sigmoid_model,
    single_model,
    softmax_families,
    softmax_model,
    stretched_model,
    unscaled_model,
)
from .outcomes import accepted, refused, served

__all__ = [
    "accepted",
    "capacity_model",
    "deep_model",
    "dense_model",
    "encoder_model",
    "every_model",
    "growing_model",
    "mixed_model",
    "models",
    "new_models",
    "refused",
    "scaled_model",
    "served",
    "sigmoid_model",
    "single_model",
    "softmax_families",
    "softmax_model",
    "stretched_model",
    "unscaled_model",
]

okr: Any = import_module("okr")  # its public names are made on first use, which type checkers cannot see
SECRET = bytes(range(100, 132))
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
SAMPLED: dict[str, Any] = {**GREEDY, "do_sample": True}


@made
def key() -> Any:
    """The key of the tests."""
    return okr.Key(SECRET)


def other_secrets(count: int) -> list[bytes]:
    """As many secrets, none of them that of the tests."""
    return [bytes([7]) * 14 + number.to_bytes(2, "big") for number in range(count)]


def other_keys(count: int) -> list[Any]:
    """As many keys, none of them that of the tests."""
    return [okr.Key(secret) for secret in other_secrets(count)]


def tokens(rows: int = 2, length: int = 8, seed: int = 0) -> Tensor:
    """Random token ids, int64 [rows, length]; no padding among them."""
    return torch.randint(1, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def routers(model: Any) -> list[tuple[Any, nn.Module]]:
    """Every keyable site with its module."""
    return [(site, model.get_submodule(site.path)) for site in okr.discover(model) if site.keyable]


@torch.no_grad()
def logits(model: Any, ids: Tensor | None = None) -> Tensor:
    """The model's logits; an encoder reads the same tokens as the decoder."""
    ids = tokens() if ids is None else ids
    source = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    found: Tensor = model(input_ids=ids, **source).logits
    return found


@made
def epsilon_of(model: Any) -> float:
    """An epsilon that opens many zones: 1 logit, or 0.3 of a sigmoid score."""
    return 1.0 if okr.discover(model)[-1].unit == "logit" else 0.3


@made
def traces(model_index: int = 0, *, keyed: bool = True, zone: str = "boundary", strength: float = math.inf) -> Any:
    """Two traces of 24 sampled tokens each, made once."""
    model = models()[model_index]
    torch.manual_seed(7)
    arguments = {
        "input_ids": tokens(),
        "max_new_tokens": 24,
        "do_sample": True,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    run = (
        okr.watermark(model, key(), epsilon=epsilon_of(model), zone=zone, strength=strength)
        if keyed
        else okr.record(model)
    )
    with run as session:
        return session.generate(**arguments).traces


@made
def mixed_trace() -> Any:
    """A trace of the softmax model of which tokens 4 to 19 and 52 to 67 ran under the key, the others natively."""
    from transformers import DynamicCache

    model, cache, ids, experts = softmax_model(), DynamicCache(), tokens(1, 4, seed=9), []
    options = {**SAMPLED, "suppress_tokens": [0, model.generation_config.eos_token_id]}
    torch.manual_seed(11)
    for length, keyed in ((1, False), (16, True), (32, False), (16, True), (8, False)):
        run = okr.watermark(model, key(), epsilon=epsilon_of(model), zone="boundary") if keyed else okr.record(model)
        before = cache.get_seq_length()
        with run as session:
            made = session.generate(ids, past_key_values=cache, max_new_tokens=length, **options)
        ids = made.sequences
        experts.append(made.traces[0].experts[before:])
    return replace(made.traces[0], experts=np.concatenate(experts), prompt_length=4)


def padded_source() -> tuple[Tensor, Tensor]:
    """What an encoder reads, with its mask: 12 tokens, and 9 with padding behind them."""
    ids = tokens(2, 12, seed=5)
    mask = torch.ones_like(ids)
    ids[1, 9:], mask[1, 9:] = 0, 0
    return ids, mask


def capacity_generation(**options: Any) -> tuple[Any, dict[str, list[tuple[Tensor, Any]]]]:
    """Two sequences of 10 tokens from the capacity model under the key, and what its routers gave; each expert may
    take two tokens of a source."""
    (ids, mask), model = padded_source(), capacity_model()
    options = {**GREEDY, "input_ids": ids, "attention_mask": mask, "max_new_tokens": 10, **options}
    torch.manual_seed(7)
    with okr.watermark(model, key(), epsilon=1.0, zone="boundary") as session, outputs_of(model) as seen:
        return session.generate(**options), seen


def ending(token: int, by_rule: bool) -> dict[str, Any]:
    """Options by which every text ends with ``token``: as the end-of-sequence token, which is the padding as well, or
    by a rule beside such a token that never comes; then no padding comes either, for it would look like an end."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **rest: Any) -> Tensor:
            return input_ids[:, -1] == token

    if not by_rule:
        return {"eos_token_id": token, "pad_token_id": token}
    never = 1 if token != 1 else 2
    return {"eos_token_id": never, "suppress_tokens": [0, never], "stopping_criteria": StoppingCriteriaList([Stop()])}


@made
def capacity_traces() -> Any:
    """Its traces, made once."""
    return capacity_generation()[0].traces


def ran(output: Any, rows: int) -> Tensor:
    """Which expert a router of the capacity model ran [rows, S, 1], from its output; -2 where it dropped the token.

    Its one-hot mask alone holds integers; which place it has, and whether it is by sequence, differs between releases
    of transformers.
    """
    mask = next(part for part in output if not part.is_floating_point()).flatten(0, -2)
    return torch.where(mask.any(-1), mask.argmax(-1), -2).view(rows, -1, 1)


@made
def capacity_binds() -> bool:
    """Whether this release of transformers drops tokens at all: some count each token's capacity alone."""
    model, (ids, _) = capacity_model(), padded_source()
    same = ids[:1, :1].expand(1, 12)
    with outputs_of(model) as seen:
        model(input_ids=same, decoder_input_ids=same)
    return any(bool((ran(output, 1) == -2).any()) for calls in seen.values() for _, output in calls)


@made
def monotone_trace() -> Any:
    """A trace of the softmax model under the key over one token 30 times: every router sees the same state all along,
    and the key swaps the same experts at every token."""
    model = softmax_model()
    with okr.watermark(model, key(), epsilon=epsilon_of(model), zone="boundary") as session:
        return session.generate(tokens(1, 1, seed=3).repeat(1, 30), max_new_tokens=2, **GREEDY).traces[0]


@made
def _outspoken(index: int) -> Any:
    model = copied(models()[index])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(10)
        model.lm_head.weight.mul_(20)
    return model


def outspoken_models() -> list[Any]:
    """Both models with louder experts and sharper predictions, as training makes them: text shows who was routed."""
    return [_outspoken(index) for index in (0, 1)]


@contextmanager
def damaged(model: Any) -> Iterator[None]:
    """The model with one NaN in its output matrix, so that every probability of it is NaN; whole again afterwards."""
    weight = model.get_output_embeddings().weight.data
    kept = weight[3, 0].clone()
    weight[3, 0] = math.nan
    try:
        yield
    finally:
        weight[3, 0] = kept


@made
def texts(index: int) -> list[list[int]]:
    """Two texts of 8 given and 48 sampled tokens each, from the outspoken model under the key."""
    model = _outspoken(index)
    torch.manual_seed(7)
    with okr.watermark(model, key(), epsilon=epsilon_of(model), zone="boundary") as session:
        made = session.generate(
            input_ids=tokens(), max_new_tokens=48, do_sample=True, pad_token_id=0, eos_token_id=None
        )
    return [row.tolist() for row in made.sequences]


@made
def unlikely_text() -> list[int]:
    """24 tokens, each the one that the first outspoken model without a key expects least."""
    text = tokens(1, 1)
    for _ in range(23):
        text = torch.cat([text, logits(_outspoken(0), text)[:, -1:].argmin(-1)], 1)
    return [int(token) for token in text[0]]


@contextmanager
def outputs_of(model: Any) -> Iterator[dict[str, list[tuple[Tensor, Any]]]]:
    """Input and output of every router call in the block, by site path."""
    seen: dict[str, list[tuple[Tensor, Any]]] = {}
    handles = []
    for site, module in routers(model):
        store = seen.setdefault(site.path, [])
        handles.append(module.register_forward_hook(lambda _m, i, o, s=store: s.append((i[0].detach(), o))))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def fingerprint(model: Any) -> dict[str, Any]:
    """All that attaching must leave as it was: classes, attributes, names, parameters."""
    return {
        "classes": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": [(name, _plain(vars(module))) for name, module in model.named_modules()],
        "hooks": [(name, len(module._forward_hooks)) for name, module in model.named_modules()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "training": model.training,
    }


def _plain(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every attribute with its value, where that is a number, a text or nothing."""
    kinds = (bool, int, float, str, type(None))
    return [(name, value if isinstance(value, kinds) else ...) for name, value in sorted(attributes.items())]


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words."""
    found = [part for part in ("classes", "attributes", "hooks", "training") if before[part] != after[part]]
    if list(before["state"]) != list(after["state"]):
        return [*found, "state dict names"]
    return found + [n for n, value in before["state"].items() if not torch.equal(value, after["state"][n])]


def copied(model: Any) -> Any:
    """A deep copy."""
    return copy.deepcopy(model)
