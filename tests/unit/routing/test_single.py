"""The short cuts of selection, for one token and for many, against the plain way."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr.routing import key_scores, selection
from okr.routing.single import route_one, select_one

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
        "strength": draw(st.sampled_from([0.1, 1.0, 1e38, math.inf])),
    }
    return choice, keys, rule


@settings(max_examples=300)
@np.errstate(all="ignore")
@given(questions(1))
def test_one_token_is_routed_as_any_other(question):
    choice, keys, rule = question
    native = torch.full((1, rule["top_k"]), NATIVE)
    expected, zone = selection.route(choice, keys, native, **rule)
    got = route_one(choice.numpy()[0], keys.numpy()[0], **rule)
    assert (got is None) == (not zone.opportunity)
    assert (native[0] if got is None else torch.from_numpy(got)).tolist() == expected[0].tolist()


@given(st.integers(0, 999), st.sampled_from([0.0, 1e-3, 1.0, 1e4]), st.booleans())
def test_what_one_token_is_ranked_by_is_what_many_are_ranked_by(seed, scale, probabilities):
    """Up to rounding of logarithm and norm, which no selection among these well separated numbers depends on."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, 8, generator=generator).softmax(-1)
    hidden = torch.randn(1, 48, generator=generator) * scale
    signs = torch.randint(0, 2, (48, 8), generator=generator).float() * 2 - 1
    rule = {"top_k": 3, "epsilon": 0.4, "zone": "boundary", "strength": 1.0}
    choice = scores.log() if probabilities else scores
    native = torch.full((1, 3), NATIVE)
    expected, _ = selection.route(choice, key_scores(hidden, signs), native, **rule)
    product = (hidden @ signs).numpy()[0]
    got = select_one(scores.numpy()[0], product, hidden.numpy()[0], probabilities=probabilities, **rule)
    assert (native[0].tolist() if got is None else got.tolist()) == expected[0].tolist()


@settings(max_examples=30)
@given(questions(selection._MANY + 5))
def test_many_tokens_are_routed_as_few(question):
    choice, keys, rule = question
    few = [selection.select(c, g, **rule) for c, g in zip(choice.split(50), keys.split(50), strict=True)]
    many = selection.select(choice, keys, **rule)
    assert all(torch.equal(torch.cat(parts), part) for parts, part in zip(zip(*few, strict=True), many, strict=True))


def test_numbers_first_met_in_inference_serve_in_training():
    selection._scalar.cache_clear()
    choice, keys = torch.zeros(2, 4), torch.ones(2, 4)
    rule = {"top_k": 2, "epsilon": 0.125, "zone": "boundary", "strength": 0.375}
    with torch.inference_mode():
        selection.select(choice, keys, **rule)
    keys.requires_grad_()
    selection.preference(choice, keys, 0.375).sum().backward()
    assert torch.equal(keys.grad, torch.full((2, 4), 0.375))
