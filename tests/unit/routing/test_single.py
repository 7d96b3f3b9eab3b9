"""The short cuts of selection, for one token and for many, against the plain way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr.routing import selection
from okr.routing.rows import route_rows
from okr.routing.single import route_one

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
@settings(max_examples=300)
@given(questions(1))
def test_one_token_is_routed_as_any_other(question):
    choice, keys, rule = question
    if not keys.isfinite().all():
        keys = torch.full_like(keys, math.nan)  # of a product with a state that is not finite, nothing is
    if keys.abs().max() > 1e30:
        rule["strength"] = math.inf  # sums beyond float32 rank anywhere
    native = torch.full((1, rule["top_k"]), NATIVE)
    expected, zone = selection.route(choice, keys, native, **rule)
    got = route_one(choice.numpy()[0], keys.numpy()[0], **rule)
    assert (got is None) == (not zone.opportunity)
    assert (native[0] if got is None else torch.from_numpy(got)).tolist() == expected[0].tolist()


@pytest.mark.filterwarnings("error")
@settings(max_examples=300)
@given(st.integers(1, 40).flatmap(questions))
def test_rows_are_routed_as_tensors(question):
    choice, keys, rule = question
    keys[~keys.isfinite().all(1)] = math.nan  # of a product with a state that is not finite, nothing is
    native = torch.full((len(choice), rule["top_k"]), NATIVE)
    expected, zone = selection.route(choice, keys, native, **rule)
    indices, contested = route_rows(choice.numpy(), keys.numpy(), **rule)
    assert contested.tolist() == zone.opportunity.tolist()
    assert indices[contested].tolist() == expected[zone.opportunity].tolist()


def test_rows_are_routed_alike_whatever_block_they_fall_in():
    generator = torch.Generator().manual_seed(7)
    choice, keys = torch.randn(2, 1100, 16, generator=generator).numpy()
    strength = torch.rand(1100, 1, generator=generator).numpy()
    rule = {"top_k": 4, "epsilon": 0.5, "zone": "boundary"}
    indices, contested = route_rows(choice, keys, strength=strength, **rule)
    for row in range(0, 1100, 73):
        part = slice(row, row + 1)
        alone = route_rows(choice[part], keys[part], strength=float(strength[row, 0]), **rule)
        assert alone[0][0].tolist() == indices[row].tolist()
        assert alone[1][0] == contested[row]
    assert 0 < contested.sum() < 1100


def test_numbers_first_met_in_inference_serve_in_training():
    selection._scalar.cache_clear()
    choice, keys = torch.zeros(2, 4), torch.ones(2, 4)
    rule = {"top_k": 2, "epsilon": 0.125, "zone": "boundary", "strength": 0.375}
    with torch.inference_mode():
        selection.select(choice, keys, **rule)
    keys.requires_grad_()
    selection.preference(choice, keys, 0.375).sum().backward()
    assert torch.equal(keys.grad, torch.full((2, 4), 0.375))
