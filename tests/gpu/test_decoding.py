"""Decoding on the card: no wait for the host, CUDA graphs, torch.compile."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from small_models import random_deepseek

import okr
from okr.loaders import Loaded
from tests.gpu import bodies

decoding = bodies.decoding
SETTINGS = [{"epsilon": 2.0}, {"epsilon": 1.0, "zone": "boundary", "strength": 1.0}]


@contextmanager
def synchronisation(mode: str) -> Iterator[None]:
    """torch's debug mode for operations that make the host wait: "error" raises, "warn" warns at each."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def waits(step: decoding.DecodeStep) -> int:
    """How often the host waits for the card in one decode step, after two that may prepare something."""
    for _ in range(2):
        step()
    with warnings.catch_warnings(record=True) as said, synchronisation("warn"):
        warnings.simplefilter("always")
        step()
    return len(said)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("tokens", [1, 32, 4096])
def test_keyed_routers_never_wait_for_the_host(needs, setting, tokens):
    card = needs(1)
    model = random_deepseek().to(card, torch.bfloat16)
    with okr.watermark(model, bodies.KEY, **setting):
        once = bodies.RoutersAlone(model, card, tokens)
        with synchronisation("error"):
            once()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_keying_adds_no_wait_to_a_decode_step_of_the_16b_model(full_size: Loaded, setting):
    native = waits(decoding.DecodeStep(full_size.model, "cuda:0"))
    with okr.watermark(full_size.model, bodies.KEY, **setting):
        assert waits(decoding.DecodeStep(full_size.model, "cuda:0")) == native


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_keyed_routers_run_in_a_cuda_graph(needs, setting):
    """Captured once, replayed with other states: the same experts as without a graph."""
    card = needs(1)
    model = random_deepseek().to(card, torch.bfloat16)
    with okr.watermark(model, bodies.KEY, **setting):
        once = bodies.RoutersAlone(model, card, 1)
        graph, captured = decoding.captured(once, card)
        for factor in (1.0, -1.0):
            once.states.mul_(factor)
            graph.replay()
            kept = [experts.clone() for experts in captured]
            assert all(map(torch.equal, kept, once()))


def test_a_keyed_decode_step_is_the_same_in_a_cuda_graph(needs):
    """The unkeyed model is captured first: where that fails, the reason is not the key."""
    card = needs(1)
    model = random_deepseek().to(card, torch.bfloat16)
    replayed_step(model, card)
    with okr.watermark(model, bodies.KEY, **SETTINGS[0]):
        with decoding.as_generate_decodes(model):
            expected = decoding.DecodeStep(model, card)()
        assert torch.allclose(replayed_step(model, card), expected, atol=1e-2)


def replayed_step(model: torch.nn.Module, card: str) -> torch.Tensor:
    """The logits of a decode step, from a replayed graph."""
    step = decoding.DecodeStep(model, card)
    with decoding.as_generate_decodes(model):
        graph, logits = decoding.captured(step, card, step.cache.reset)
    graph.replay()
    return logits.clone()


def test_a_compiled_decode_step_routes_as_an_eager_one(needs):
    card = needs(1)
    done = bodies.run_compiled(card, "inductor")
    assert done.returncode == 0, done.stdout + done.stderr
