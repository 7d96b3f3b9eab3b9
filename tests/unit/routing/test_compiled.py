"""The compiled selection of tokens in memory against the plain way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr.routing import compiled, selection
from okr.routing.compiled import Selector
from okr.routing.scores import TINY

NATIVE = -1


@st.composite
def questions(draw, tokens):
    """(choice, key scores, rule): coarse numbers, so that ties abound, some of them barred or not finite."""
    experts = draw(st.sampled_from([1, 2, 5, 8, 64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    steps = draw(st.sampled_from([1, 4, 1000]))
    choice, keys = ((torch.randn(tokens, experts, generator=generator) * steps).round() / steps for _ in range(2))
    scale = draw(st.sampled_from([1.0, 1.0, 1e38]))
    choice, keys = choice * scale, keys * scale
    for scores, odd in ((choice, [-math.inf, math.inf, math.nan]), (keys, [math.inf, -math.inf, math.nan])):
        for value in odd:
            if draw(st.integers(0, 4)) == 0:
                scores[torch.rand(tokens, experts, generator=generator) < 0.1] = value
    rule = {
        "top_k": draw(st.integers(1, experts)),
        "epsilon": draw(st.sampled_from([0.0, 0.25, 0.3, 2.0, 3e38, math.inf])),
        "zone": draw(st.sampled_from(["max", "boundary"])),
        "strength": draw(st.sampled_from([0.1, 1.0, 1e20, math.inf])),
    }
    return choice, keys, rule


@pytest.mark.filterwarnings("error")
@settings(max_examples=500)
@given(st.integers(0, 40).flatmap(questions))
def test_tokens_are_routed_as_tensors(question):
    choice, keys, rule = question
    native = torch.full((len(choice), rule["top_k"]), NATIVE)
    expected, zone = selection.route(choice, keys, native, **rule)
    indices, opportunity, everywhere = Selector(**rule)(choice.numpy(), keys.numpy())
    assert opportunity.tolist() == zone.opportunity.tolist()
    assert everywhere == opportunity.all()
    assert indices[opportunity].tolist() == expected[zone.opportunity].tolist()


@settings(max_examples=300)
@given(questions(1), st.booleans(), st.integers(1, 40))
def test_a_single_token_is_routed_by_what_its_router_sees(question, log, size):
    """States are small whole numbers, so that every sum is exact; logarithms keep clear of the zones' edges."""
    choice, keys, rule = question
    generator = torch.Generator().manual_seed(size)
    projection = torch.randint(0, 2, (size, choice.shape[1]), generator=generator).float() * 2 - 1
    state = torch.randint(-3, 4, (1, size), generator=generator).float()
    if not keys.isfinite().all():
        state[0, -1] = math.nan
    if log:
        choice, rule["epsilon"] = choice.nan_to_num().clamp(-20, 20).round().exp2(), rule["epsilon"] + 0.01
    norm = state.norm(dim=-1).clamp_min(TINY).numpy()
    told = choice.log() if log else choice
    expected, opportunity, _ = Selector(**rule)(told.numpy(), (state @ projection).numpy(), norm)
    got = Selector(**rule).one(choice.numpy(), state.numpy(), projection.to(torch.int8).numpy(), log)
    assert (got is not None) == opportunity[0]
    assert got is None or got.tolist() == expected.tolist()


def test_norms_divide_the_strength_of_each_token():
    generator = torch.Generator().manual_seed(7)
    choice, keys = torch.randn(2, 1100, 16, generator=generator).numpy()
    norms = (torch.rand(1100, generator=generator) + 0.1).numpy()
    rule = {"top_k": 4, "epsilon": 0.5, "zone": "boundary"}
    indices, opportunity, _ = Selector(strength=3.0, **rule)(choice, keys, norms)
    for row in range(0, 1100, 73):
        part, strength = slice(row, row + 1), float(np.float32(3.0) / norms[row])
        alone = Selector(strength=strength, **rule)(choice[part], keys[part])
        assert alone[0][0].tolist() == indices[row].tolist() or not opportunity[row]
        assert alone[1][0] == opportunity[row]
    assert 0 < opportunity.sum() < 1100


def test_the_smallest_norm_makes_no_strength_infinite():
    """At an infinite one the choice scores would no longer count."""
    choice, keys = np.float32([[3e38, 0, -1, -2]]), np.float32([[0, 1e-30, 2e-30, 0]])
    rule = {"top_k": 1, "epsilon": math.inf, "zone": "max"}
    assert Selector(strength=1.0, **rule)(choice, keys, np.float32([TINY]))[0].tolist() == [[0]]


def test_where_machine_code_cannot_be_kept_it_is_made_in_each_process(monkeypatch):
    made = []

    def njit(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        made.append(options)
        return function

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.machine_code(len) is len
    assert made == [{"nogil": True}]


def test_numbers_first_met_in_inference_serve_in_training():
    selection._scalar.cache_clear()
    choice, keys = torch.zeros(2, 4), torch.ones(2, 4)
    rule = {"top_k": 2, "epsilon": 0.125, "zone": "boundary", "strength": 0.375}
    with torch.inference_mode():
        selection.select(choice, keys, **rule)
    keys.requires_grad_()
    selection.preference(choice, keys, 0.375).sum().backward()
    assert torch.equal(keys.grad, torch.full((2, 4), 0.375))
