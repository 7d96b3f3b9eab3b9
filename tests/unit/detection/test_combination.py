"""The combined p-value: valid under the null hypothesis, blind to native routing, and the same by token and in all."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, combine_pvalues

import okr
from okr import Key
from okr.detection import (
    LEAST_P,
    Swaps,
    combined_p,
    gather_evidence,
    p_values,
    prefix_p_values,
    sign_sum_p,
    site_ranks_p,
)
from okr.detection.combination import SHARE
from okr.detection.swaps import swaps_of_random_keys
from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM
from okr.routing import Setting, select
from okr.spec.replays import replaying_once


def tensors(*values):
    return (torch.tensor([value], dtype=torch.float64) for value in values)


@given(st.lists(st.integers(1, 1000).map(lambda rank: rank / 1000), min_size=1, max_size=30))
def test_ranks_are_combined_as_by_fisher(ranks):
    """Against scipy."""
    found = site_ranks_p(*tensors(-sum(map(math.log, ranks)), len(ranks), 10, 10))
    assert float(found) == pytest.approx(combine_pvalues(ranks, "fisher").pvalue, rel=1e-9)


@pytest.mark.parametrize(("swapped", "sites", "counts"), [(25, 3, True), (24, 3, False), (100, 0, False)])
def test_ranks_count_where_enough_was_swapped(swapped, sites, counts):
    assert SHARE == 0.25
    assert (float(site_ranks_p(*tensors(20.0, sites, swapped, 100))) < 1) == counts


@given(st.floats(LEAST_P, 1), st.floats(LEAST_P, 1))
def test_two_tests_are_corrected_for(first, second):
    assert combined_p(first, second) == min(1, 2 * min(first, second))


@pytest.mark.parametrize(("strength", "epsilon"), [(math.inf, 1.0), (0.3, math.inf)])
def test_expected_swaps_are_those_of_keys(deepseek, key, strength, epsilon):
    """Against the selections of 400 random keys on the same states; the mean of 16 draws is within a tenth."""
    with okr.record(deepseek) as recorder:
        trace = recorder.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=60, do_sample=True).traces[0]
    setting = Setting(epsilon, "boundary", strength)
    made = expected = 0.0
    generator = torch.Generator().manual_seed(0)
    for site in gather_evidence(okr.prepare(deepseek), trace, setting, skip_prompt=False):
        expected += float(swaps_of_random_keys(site).sum())
        native = torch.zeros_like(site.choice).scatter_(-1, site.choice.topk(site.experts.shape[-1]).indices, 1.0)
        for _ in range(400):
            scores = torch.randn(site.choice.shape, generator=generator)
            chosen = {"top_k": site.experts.shape[-1], "epsilon": epsilon, "zone": "boundary", "strength": strength}
            ran = select(site.choice, scores, **chosen)
            made += float((torch.zeros_like(native).scatter_(-1, ran.indices, 1.0) - native).clamp_min(0).sum()) / 400
    assert expected == pytest.approx(made, rel=0.1)
    assert made > 5


@pytest.mark.parametrize("traces", [1, 2])
def test_the_p_value_after_the_last_token_is_that_of_the_verdict(moe, key, traces):
    """Up to ties among decoys, which only the verdict breaks by their support."""
    ids = torch.randint(3, 256, (traces, 6))
    with okr.watermark(moe, key, epsilon=2.0, zone="boundary") as session:
        made = list(session.generate(ids, max_new_tokens=30, do_sample=True).traces)
    verdict = okr.verify(moe, made, key, alpha=0.5)
    tokens = sum(len(trace.token_ids) - 1 for trace in made)
    assert verdict.tokens_needed is None or verdict.tokens_needed <= tokens
    if traces == 1:
        setting = Setting(2.0, "boundary")
        p = prefix_p_values(okr.prepare(moe), made[0], key, setting)
        whole = okr.verify(moe, made[0], key, decoys=1, skip_prompt=True)
        assert float(p[-1]) == pytest.approx(whole.p_value) or whole.sites_p != 1
        assert whole.swaps_p == pytest.approx(sign_sum_p(whole.z))


def test_the_combined_p_value_is_valid_on_a_trace_of_another_key(deepseek):
    """300 unrelated keys on a repetitive trace with all its swaps: more than 41 at 0.05, or 18 at 0.01, happen with
    probability below 1e-6."""
    with okr.watermark(deepseek, Key(bytes([9]) * 16), epsilon=2.0, zone="boundary") as session:
        trace = session.generate(torch.tensor([[5, 6, 5, 6]]), max_new_tokens=40, do_sample=False).traces[0]
    engine = replaying_once(deepseek)
    found = [okr.verify(engine, trace, Key((i + 1).to_bytes(16, "big")), decoys=99) for i in range(300)]
    assert all(verdict.swaps >= SHARE * verdict.expected_swaps for verdict in found)
    for level, most in ((0.05, 41), (0.01, 18)):
        assert binom.sf(most, 300, level) < 1e-6
        for p in ("p_value", "sites_p", "swaps_p"):
            assert sum(getattr(verdict, p) <= level for verdict in found) <= most
    assert np.median([verdict.sites_p for verdict in found]) < 1


def test_many_keys_get_the_p_values_of_verification(deepseek, key):
    """Of a trace whose swaps let ranks count, and of a native one made in bfloat16, whose swaps are few."""
    engine, keys = okr.prepare(deepseek), [key, *(Key((i + 1).to_bytes(16, "big")) for i in range(3))]
    ids, setting = torch.tensor([[5, 6, 7]]), Setting(1.0, "boundary")
    with okr.watermark(deepseek, key, epsilon=1.0, zone="boundary") as session:
        marked = session.generate(ids, max_new_tokens=30, do_sample=True).traces[0]
    with okr.record(deepseek) as recorder:
        native = recorder.generate(ids, max_new_tokens=60, do_sample=True).traces[0]
    changed = native.experts.copy()
    changed[:3] = changed[3:6]
    rounded = dataclasses.replace(native, experts=changed)
    for trace, count in ((marked, True), (native, False), (rounded, False)):
        assert Swaps([gather_evidence(engine, trace, setting, skip_prompt=False)]).ranks_count == count
        given = {"epsilon": 1.0, "zone": "boundary", "strength": math.inf, "decoys": 99}
        expected = [okr.verify(engine, trace, claimed, **given).p_value for claimed in keys]
        assert p_values(engine, trace, keys, setting, decoys=99).tolist() == pytest.approx(expected)


def test_many_sites_prove_a_short_trace_beyond_any_number_of_decoys():
    """DeepSeek-MoE-16B's layers, experts and top-k with small states and random weights: 32 tokens, quiet."""
    config = DeepseekConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=28,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2,
        first_k_dense_replace=1, max_position_embeddings=64,
    )  # fmt: skip
    engine, key = okr.prepare(DeepseekForCausalLM(config).eval()), Key.public("many sites")
    length = {"max_new_tokens": 28, "min_new_tokens": 28, "do_sample": True}
    with okr.watermark(engine, key, setting="quiet") as session:
        trace = session.generate(torch.tensor([[3, 4, 5, 6]]), **length).traces[0]
    verdict = okr.verify(engine, trace, key, alpha=1e-30)
    assert verdict.watermarked
    assert len(verdict.sites) == 27
    stranger = okr.verify(engine, trace, Key.public("another"), alpha=1e-6)
    assert not stranger.watermarked
