"""Gradients of a checkpointed forward are those of what ran, or are refused: never those of another routing."""

import contextlib

import pytest
import torch
from small_models import random_deepseek
from torch import nn
from torch.utils.checkpoint import checkpoint

import okr
from okr import UnsupportedRouter

IDS = torch.arange(3, 35).view(2, 16)
SETTING = {"epsilon": float("inf"), "zone": "boundary"}


def gradients(model):
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found


def plain(model, key):
    with okr.watermark(model, key, **SETTING):
        model(input_ids=IDS, labels=IDS).loss.backward()
    return gradients(model)


@pytest.mark.parametrize("reentrant", [True, False])
def test_backward_inside_the_block_recomputes_what_ran(key, reentrant):
    model = random_deepseek().train()
    expected = plain(model, key)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    with okr.watermark(model, key, **SETTING):
        model(input_ids=IDS, labels=IDS).loss.backward()
    for found, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("part", ["the model", "its body", "twice"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_backward_outside_the_block_is_refused(key, other_key, reentrant, part):
    model = random_deepseek().train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    with okr.watermark(model, key, **SETTING):
        if part == "its body":
            value = model.model(input_ids=IDS).last_hidden_state.sum()
        else:
            value = model(input_ids=IDS, labels=IDS).loss
    again = okr.watermark(model, other_key, **SETTING) if part == "twice" else contextlib.nullcontext()
    with again, pytest.raises(UnsupportedRouter, match="inside the block"):
        value.backward()


def test_backward_outside_the_block_is_right_where_nothing_is_recomputed(key):
    model = random_deepseek().train()
    expected = plain(model, key)
    with okr.watermark(model, key, **SETTING) as wm:
        wm.generate(IDS[:, :4], max_new_tokens=3, do_sample=False)  # without gradients, before
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    for found, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_checkpoint_around_part_of_a_users_own_model_is_seen(key):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = random_deepseek()
            self.head = nn.Linear(256, 2)

        def forward(self, ids):
            embedded = self.inner.get_input_embeddings()(ids)
            run = lambda states: self.inner(inputs_embeds=states, use_cache=False).logits  # noqa: E731
            return self.head(checkpoint(run, embedded, use_reentrant=True))

    model = Outer().train()
    with okr.watermark(model, key, **SETTING):
        value = model(IDS).sum()
    with pytest.raises(UnsupportedRouter, match="inside the block"):
        value.backward()
