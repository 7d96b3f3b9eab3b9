"""Key scores inside autocast: the same bits as outside."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr.routing import key_scores

EXACTLY = {"rtol": 0, "atol": 0, "equal_nan": True}


@settings(max_examples=60)
@given(
    tokens=st.integers(0, 5),
    size=st.sampled_from([1, 32, 300]),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),  # in float16 the last overflows and the first underflows
    states=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    wide=st.booleans(),
    lower=st.sampled_from([torch.bfloat16, torch.float16]),
    seed=st.integers(0, 999),
)
def test_key_scores_are_the_same_inside_autocast(tokens, size, scale, states, wide, lower, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(tokens, size, generator=generator) * scale).to(states)
    signs = (torch.randint(0, 2, (size, 7), generator=generator) * 2 - 1).to(torch.float64 if wide else torch.float32)
    outside = key_scores(hidden, signs)
    with torch.autocast("cpu", lower):
        inside = key_scores(hidden, signs)
        with torch.autocast("cpu", enabled=False):
            torch.testing.assert_close(key_scores(hidden, signs), outside, **EXACTLY)
    assert inside.dtype == outside.dtype == signs.dtype
    torch.testing.assert_close(inside, outside, **EXACTLY)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_key_scores_are_the_same_inside_autocast(lower):
    signs = (torch.randint(0, 2, (16, 7)) * 2 - 1).float()
    states, gradients = torch.randn(3, 16), []
    for on in (False, True):
        hidden = states.clone().requires_grad_()
        with torch.autocast("cpu", lower, enabled=on):
            total = key_scores(hidden, signs).square().sum()
        total.backward()
        gradients.append(hidden.grad)
    assert torch.equal(*gradients)


def test_states_without_memory_have_key_scores_without_memory():
    """Autocast knows no such device."""
    assert key_scores(torch.zeros(2, 4, device="meta"), torch.zeros(4, 3, device="meta")).shape == (2, 3)
