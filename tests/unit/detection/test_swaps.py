"""The evidence in swaps: its definition, and why its p-value is valid."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

import okr
from okr import Key
from okr.detection.evidence import SiteEvidence
from okr.detection.swaps import CONSTANT, LEAST_P, REACH, SwapTally, growth, sign_sum_p, sign_sum_p_values, swap_weights
from okr.routing import find_zone, select

HARD, SOFT = math.inf, 0.5


def evidence(choice, experts, *, strength, epsilon=math.inf, hidden=None):
    """All tokens' evidence, whatever zone they have."""
    zone = find_zone(choice, top_k=experts.shape[-1], epsilon=epsilon, zone="boundary")
    hidden = torch.randn(len(choice), 8) if hidden is None else hidden
    places = torch.arange(len(choice))
    parts = (choice, hidden, experts, zone.pool, zone.locked, zone.free, places)
    return SiteEvidence(None, strength, *parts, len(choice), 0)


def ranked(row, k):
    """The k largest of a row, ties to the lower index."""
    return sorted(sorted(range(len(row)), key=lambda e: (-row[e], e))[:k])


@given(
    seed=st.integers(0, 2**32 - 1),
    strength=st.sampled_from([HARD, SOFT, 0.05]),
    epsilon=st.sampled_from([1.0, math.inf]),
)
def test_weights_are_the_difference_to_the_native_selection(seed, strength, epsilon):
    """Against the definition, one expert at a time."""
    generator = torch.Generator().manual_seed(seed)
    choice = (torch.randn(6, 9, generator=generator) * 2).round(decimals=1)
    experts = torch.stack([torch.randperm(9, generator=generator)[:3] for _ in range(6)])
    found = evidence(choice, experts, strength=strength, epsilon=epsilon)
    weights = swap_weights(found)
    for t, row in enumerate(choice.tolist()):
        order = sorted(row, reverse=True)
        inner, outer = order[2], order[3]
        native, ran = set(ranked(row, 3)), set(experts[t].tolist())
        low, high = np.float32(inner) - np.float32(REACH * strength), np.float32(outer) + np.float32(REACH * strength)
        near = {e for e in range(9) if found.pool[t, e] and low <= row[e] <= high}
        far = len((native ^ ran) - near)
        for e in range(9):
            sign = (e in ran) - (e in native)
            assert float(weights[t, e]) == (sign / (1 + far) if e in near else 0)


@given(st.floats(-37, 37), st.floats(1e-3, 1e3))
def test_p_values_of_many_sums_are_those_of_one(z, norm_of_sum):
    """Far out in the tail too, where an error function that is 1 leaves nothing."""
    sums, squares = torch.tensor([[z * norm_of_sum], [norm_of_sum**2]], dtype=torch.float64)
    assert sign_sum_p_values(sums, squares).item() == pytest.approx(sign_sum_p(z), rel=1e-9)


def test_native_routing_has_no_evidence():
    choice = torch.randn(50, 16)
    native = choice.topk(4).indices
    assert not swap_weights(evidence(choice, native, strength=SOFT)).any()
    assert sign_sum_p(0.0) == 1.0


@pytest.mark.parametrize("strength", [HARD, SOFT])
def test_the_key_that_chose_stands_out_and_no_other(strength):
    """200 tokens routed under one of 400 keys. That a stranger's z exceeds 6.1 happens with probability below 1e-6."""
    generator = torch.Generator().manual_seed(3)
    hidden, choice = torch.randn(200, 32, generator=generator), torch.randn(200, 16, generator=generator)
    keys = torch.randint(0, 2, (400, 32, 16), generator=generator).float() * 2 - 1
    scores = hidden @ keys[7] / hidden.norm(dim=-1, keepdim=True)
    ran = select(choice, scores, top_k=4, epsilon=math.inf, zone="boundary", strength=strength).indices
    tally = SwapTally(32, 16)
    tally.add(evidence(choice, ran, strength=strength, hidden=hidden))
    z = np.array([tally.sum(key) for key in keys]) / math.sqrt(tally.squared_norm())
    assert z[7] > 10
    assert np.delete(z, 7).max() < 6.1
    assert 400 * sign_sum_p(6.1) < 1e-6


def test_alike_tokens_count_once():
    """One state, routed alike 100 times, is as much evidence as once; a count of independent tokens has ten times z."""
    choice, hidden = torch.randn(1, 16).repeat(100, 1), torch.randn(1, 32).repeat(100, 1)
    key = torch.randint(0, 2, (32, 16)).float() * 2 - 1
    ran = torch.tensor([[3, 7, 9]]).repeat(100, 1)
    many, once = SwapTally(32, 16), SwapTally(32, 16)
    many.add(evidence(choice, ran, strength=HARD, hidden=hidden))
    once.add(evidence(choice[:1], ran[:1], strength=HARD, hidden=hidden[:1]))
    z = [tally.sum(key) / math.sqrt(tally.squared_norm()) for tally in (many, once)]
    assert z[0] == pytest.approx(z[1])


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=1, max_size=10), st.floats(0.01, 4))
def test_the_bound_holds_for_every_sum_of_signs(weights, z):
    """Against all sign vectors, counted."""
    size = math.sqrt(sum(w * w for w in weights))
    signs = np.array(list(itertools.product((-1, 1), repeat=len(weights))))
    assert np.mean(signs @ weights >= z * size + 1e-9) <= sign_sum_p(z)


def test_the_constant_is_attained_and_the_normal_tail_alone_is_no_bound():
    """Two equal signs: P(S >= sqrt(2) ||W||) = 1/4, which is the bound there and twice the normal tail."""
    assert sign_sum_p(math.sqrt(2)) == pytest.approx(1 / 4)
    assert norm.sf(math.sqrt(2)) < 1 / 12
    assert pytest.approx(3.178, abs=1e-3) == CONSTANT


@pytest.mark.parametrize("z", [-1e9, -1.0, 0.0, 1.0, 30.0, 50.0, 1e9])
def test_p_values_lie_between_the_least_and_one(z):
    assert LEAST_P <= sign_sum_p(z) <= 1.0


@pytest.mark.parametrize("tokens", [1, 7, 1100])
def test_growth_of_the_norm_adds_up(tokens):
    """The norm after every token, against W itself; longer than a block too."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(tokens, 6, generator=generator, dtype=torch.float64)
    weights = torch.randint(-1, 2, (tokens, 5), generator=generator).double()
    before = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    grown = growth(before, states, weights).cumsum(0) + before.square().sum()
    totals = before + (states[:, :, None] * weights[:, None]).cumsum(0)
    torch.testing.assert_close(grown, totals.square().sum((1, 2)))


def test_p_values_of_strangers_are_valid_where_tokens_are_alike(deepseek):
    """A repetitive text made under another key, 400 unrelated keys: P(p <= x) <= x. More than 51 at 0.05, or 18 at
    0.01, happen with probability below 1e-6."""
    maker = Key(bytes([9]) * 16)
    with okr.watermark(deepseek, maker, epsilon=2.0, zone="boundary") as session:
        trace = session.generate(torch.tensor([[5, 6, 5, 6]]), max_new_tokens=40, do_sample=False).traces[0]
    keys = [Key((i + 1).to_bytes(16, "big")) for i in range(400)]
    found = okr.attribute(deepseek, trace, [maker, *keys])
    p = np.array([candidate.p_value for candidate in found.candidates[1:]])
    for level, most in ((0.05, 51), (0.01, 18)):
        assert binom.sf(most, 400, level) < 1e-6
        assert (p <= level).sum() <= most
    assert (p < 1).any()


def test_a_native_trace_shows_nothing_under_any_key(moe):
    with okr.record(moe) as recorder:
        trace = recorder.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=20, do_sample=True).traces[0]
    keys = [Key((i + 1).to_bytes(16, "big")) for i in range(30)]
    found = okr.attribute(moe, trace, keys, epsilon=1.0, zone="boundary", strength=math.inf)
    assert {candidate.p_value for candidate in found.candidates} == {1.0}


def test_decoys_do_not_change_the_p_value(deepseek, key):
    with okr.watermark(deepseek, key, epsilon=1.0, zone="boundary") as session:
        trace = session.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=30, do_sample=True).traces[0]
    few, many = (okr.verify(deepseek, trace, key, decoys=decoys, alpha=1e-12) for decoys in (1, 99))
    assert few.p_value == many.p_value < 1e-4
    assert few.rank_p == 1 / 2
    assert many.rank_p == 1 / 100
