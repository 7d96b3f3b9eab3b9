"""Tokens that a capacity drops, read from and taken out of a router's output in either order that releases have."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from okr.engines.transformers.families import Capacity
from okr.traces import NOTHING_RAN

EXPERTS = 5


def first(mask, weights, logits):
    """transformers 5.23: the mask [B, S, E] comes first."""
    return mask, weights, logits


def second(mask, weights, logits):
    """transformers 5.17: the mask [T, 1, E] comes second, between the weights."""
    flat = weights.reshape(-1, 1)
    return flat, mask.reshape(-1, 1, EXPERTS), flat


@pytest.mark.parametrize("order", [first, second])
@given(st.lists(st.tuples(st.integers(0, EXPERTS - 1), st.booleans(), st.booleans()), min_size=6, max_size=6))
def test_dropped_tokens_are_read_and_taken_out(order, tokens):
    chosen, full, forced = (torch.tensor(column) for column in zip(*tokens, strict=True))
    mask = torch.nn.functional.one_hot(chosen, EXPERTS) * ~full[:, None]
    output = order(mask.view(2, 3, EXPERTS), torch.full((2, 3, 1), 0.5), torch.randn(2, 3, EXPERTS))

    ran = Capacity().ran(output, chosen[:, None])
    assert ran.flatten().tolist() == [NOTHING_RAN if gone else expert for expert, gone, _ in tokens]

    left = Capacity().drop(output, forced)
    assert Capacity().ran(left, chosen[:, None]).flatten().tolist() == [
        NOTHING_RAN if gone or taken else expert for expert, gone, taken in tokens
    ]
    place = 0 if order is first else 1
    assert left[place].shape == output[place].shape
    assert all(torch.equal(left[other], output[other]) for other in range(3) if other != place)
