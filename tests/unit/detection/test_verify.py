"""Verification: exact under the null hypothesis, certain under the alternative, honest otherwise."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

import okr
from okr import InvalidSetting, InvalidTrace, Key
from okr.detection import Decoys, counting
from okr.detection.by_token import TokenCounts, TokenTally
from okr.detection.counting import count, matches
from okr.detection.decoys import BLOCK, DecoyBlocks
from okr.detection.evidence import SiteEvidence, all_evidence
from okr.detection.many_keys import site_ranks
from okr.detection.verification import count as counted
from okr.detection.verification import decoy_seed
from okr.routing import find_zone, select
from okr.spec.replays import replaying_once


def generated(model, key, **setting):
    ids = torch.randint(3, 256, (2, 6))
    with okr.watermark(model, key, **setting) as wm:
        return wm.generate(input_ids=ids, max_new_tokens=30, do_sample=True).traces


@pytest.mark.parametrize("zone", ["max", "boundary"])
@pytest.mark.parametrize("strength", [math.inf, 1.0])
def test_the_statistic_counts_the_selection_of_the_spec(zone, strength):
    """Matched slots, computed by thresholds, against the selection itself for every key."""
    choice, images = torch.randn(40, 12), torch.randn(40, 5, 12)
    found = find_zone(choice, top_k=3, epsilon=1.0, zone=zone)
    here = found.opportunity
    ran = torch.stack([torch.randperm(12)[:3] for _ in range(40)])
    got, _ = matches(choice[here], images[here], ran[here], found.pool[here], found.locked[here], strength)
    for image, matched in zip(images.unbind(1), got.sum(0), strict=True):
        target = select(choice, image, top_k=3, epsilon=1.0, zone=zone, strength=strength)
        expected = 0
        for t in here.nonzero().flatten().tolist():
            pool = set(found.pool[t].nonzero().flatten().tolist())
            hits = len(set(ran[t].tolist()) & set(target.indices[t].tolist()) & pool)
            expected += min(hits, int(found.free[t]))
        assert int(matched) == expected


@pytest.mark.parametrize("zone", ["max", "boundary"])
@pytest.mark.parametrize("strength", [math.inf, 1.0, 3e38])
@pytest.mark.parametrize(("experts", "top_k"), [(12, 3), (64, 6), (5, 1), (4, 3)])
def test_compiled_counts_are_those_of_matches(zone, strength, experts, top_k):
    """With ties among choice scores and among key scores, and locked experts."""
    choice = (torch.randn(50, experts) * 2).round() / 2
    found = find_zone(choice, top_k=top_k, epsilon=1.0, zone=zone)
    here = found.opportunity
    ran = torch.stack([row.topk(top_k).indices for row in choice + torch.rand(50, experts)])
    parts = (choice, ran, found.pool, found.locked, found.free, torch.arange(50))
    choice, ran, pool, locked, free, tokens = (part[here] for part in parts)
    evidence = SiteEvidence(None, strength, choice, choice, ran, pool, locked, free, tokens, 50, 0)
    decoys = Decoys.draw(40, experts, b"seed of the test")
    claimed = (torch.randn(len(choice), experts) * 4).round() / 4
    hits, support = count(decoys, evidence, claimed)
    expected, prefers = matches(choice, decoys.scores(claimed, 0, 41), ran, pool, locked, strength)
    assert len(choice) > 10
    assert torch.equal(hits.long(), expected.long())
    if strength != 3e38:  # where sums of float32 overflow
        torch.testing.assert_close(support, prefers.double().sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 1000])
def test_counts_do_not_depend_on_how_many_images_are_counted_at_once(monkeypatch, chunk):
    """One at a time where a single image has more scores than may be held."""
    choice = torch.randn(20, 6, dtype=torch.float64)
    found = find_zone(choice, top_k=2, epsilon=math.inf, zone="max")
    ran = torch.stack([torch.randperm(6)[:2] for _ in choice])
    places = torch.arange(20)
    evidence = SiteEvidence(None, 1.0, choice, choice, ran, found.pool, found.locked, found.free, places, 20, 0)
    decoys, claimed = Decoys.draw(12, 6, b"seed of the test"), torch.randn(20, 6)
    whole = count(decoys, evidence, claimed)
    monkeypatch.setattr(counting, "_CHUNK", chunk)
    for part, same in zip(count(decoys, evidence, claimed), whole, strict=True):
        torch.testing.assert_close(part, same)


def test_decoys_are_signed_permutations_with_the_claimed_key_first():
    decoys = Decoys.draw(50, 9, b"seed of the test")
    claimed = torch.randn(4, 9)
    scores = decoys.scores(claimed, 0, 51)
    assert torch.equal(scores[:, 0], claimed)
    assert torch.equal(scores.abs().sort(-1).values, claimed.abs().sort(-1).values[:, None].expand(-1, 51, -1))
    assert len({tuple(row) for row in decoys.columns.tolist()}) > 45
    assert torch.equal(decoys.scores(claimed, 7, 9), scores[:, 7:9])


@pytest.mark.parametrize("decoys", [0, 40, BLOCK - 1, BLOCK, 2 * BLOCK + 7])
def test_blocks_hold_each_image_once_and_the_claimed_key_first(decoys):
    blocks = DecoyBlocks(decoys, 9, b"seed of the test")
    places = [place for part, _ in blocks for place in range(part.start, part.stop)]
    images = [tuple(row) for _, block in blocks for row in ((block.columns + 1) * block.signs.long()).tolist()]
    assert places == [*range(decoys + 1)]
    assert images[0] == tuple(range(1, 10))
    assert len({*images}) == len(images)
    assert images == [tuple(row) for _, block in blocks for row in ((block.columns + 1) * block.signs.long()).tolist()]


def test_counts_of_several_blocks_are_those_of_all_images_at_once(deepseek, key, other_key):
    """For a verdict and for many keys, over two traces."""
    traces = generated(deepseek, key, epsilon=1.0, strength=0.5)
    engine, decoys = okr.prepare(deepseek), 2 * BLOCK + 7
    found = [*all_evidence(engine, traces, epsilon=None, zone=None, strength=None, skip_prompt=False)]
    for claimed in (key, other_key):
        tallies, _ = counted(traces, found, claimed, decoys)
        ranks = site_ranks(found, claimed, decoys, decoy_seed(traces, claimed))
        assert ranks == [tally.rank() for tally in tallies if tally.opportunities]
        for place, tally in enumerate(tallies):
            columns, signs = zip(*((block.columns, block.signs) for _, block in tally.decoys), strict=True)
            images = Decoys(torch.cat(columns), torch.cat(signs))
            parts = [count(images, sites[place], tally.project(sites[place].hidden)) for sites in found]
            assert torch.equal(tally.matched, sum(hits.sum(0).double() for hits, _ in parts))
            torch.testing.assert_close(tally.support, sum(support for _, support in parts))


def test_p_values_of_unrelated_keys_are_uniform(deepseek, key):
    """One strongly repetitive native text, 150 random keys: P(p <= 0.05) = 0.05 exactly, so more than 25 of 150
    happen with probability below 1e-6 (7.5 expected)."""
    ids = torch.tensor([[5, 6, 5, 6, 5, 6, 5, 6]])
    with okr.record(deepseek) as recorder:
        trace = recorder.generate(input_ids=ids, max_new_tokens=24, do_sample=False).traces[0]
    setting = {"epsilon": 1.0, "zone": "boundary", "strength": math.inf}
    engine = replaying_once(deepseek)
    p = [
        okr.verify(engine, trace, Key(i.to_bytes(16, "big")), decoys=19, alpha=0.05, **setting).p_value
        for i in range(150)
    ]
    significant = sum(value <= 0.05 for value in p)
    assert binom.sf(25, 150, 0.05) < 1e-6
    assert significant <= 25
    assert np.mean(p) > 0.4


def test_the_verdict_repeats_and_pools(moe, key, other_key):
    traces = generated(moe, key, epsilon=2.0)
    assert okr.verify(moe, traces[0], key) == okr.verify(moe, traces[0], key)
    single = [okr.verify(moe, trace, key, decoys=19) for trace in traces]
    pooled = okr.verify(moe, traces, key, alpha=0.01)
    assert pooled.free_slots == sum(verdict.free_slots for verdict in single)
    assert pooled.watermarked
    assert "watermarked under key " + key.id in str(pooled)
    assert str(okr.verify(moe, traces, other_key)).startswith("not watermarked")


def test_other_settings_show_outside_the_zone(deepseek, key):
    traces = generated(deepseek, key, epsilon=4.0)
    verdict = okr.verify(deepseek, traces, key, epsilon=0.5)
    assert verdict.outside_zone > 0


def test_a_native_trace_needs_settings(deepseek, key):
    with okr.record(deepseek) as recorder:
        trace = recorder.generate(input_ids=torch.tensor([[3, 4]]), max_new_tokens=4, do_sample=False).traces[0]
    with pytest.raises(InvalidSetting, match="say which epsilon"):
        okr.verify(deepseek, trace, key)
    assert okr.verify(deepseek, trace, key, epsilon=1.0, zone="max", strength=math.inf).p_value > 0.001


def test_no_opportunity_cannot_tell(deepseek, key):
    trace = generated(deepseek, key, epsilon=0.0)[0]
    verdict = okr.verify(deepseek, trace, key)
    assert verdict.p_value == 1.0
    assert not verdict.watermarked
    assert verdict.hit_rate is None
    assert "cannot tell" in str(verdict)


@pytest.mark.parametrize("arguments", [{"decoys": 0}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_tests_that_cannot_decide_are_refused(deepseek, key, arguments):
    trace = generated(deepseek, key, epsilon=1.0)[0]
    with pytest.raises(InvalidSetting, match=r"decoys|alpha"):
        okr.verify(deepseek, trace, key, **arguments)


def test_no_traces_are_refused(deepseek, key):
    with pytest.raises(InvalidTrace, match="no trace"):
        okr.verify(deepseek, [], key)


def test_a_trace_of_another_model_is_refused(deepseek, switch, key):
    trace = generated(deepseek, key, epsilon=1.0)[0]
    with pytest.raises(InvalidTrace, match="another model"):
        okr.verify(switch, trace, key)
    with torch.no_grad():
        deepseek.model.layers[1].mlp.gate.weight[0, 0] += 1
    with pytest.raises(InvalidTrace, match="another model"):
        okr.verify(deepseek, trace, key)


def test_token_ids_beyond_the_vocabulary_are_refused(deepseek, key):
    trace = generated(deepseek, key, epsilon=1.0)[0]
    tokens = trace.token_ids.copy()
    tokens[0] = 256
    with pytest.raises(InvalidTrace, match="256 tokens"):
        okr.verify(deepseek, dataclasses.replace(trace, token_ids=tokens), key)


def test_a_float32_trace_verifies_in_bfloat16(deepseek, key):
    traces = generated(deepseek, key, epsilon=2.0)
    verdict = okr.verify(deepseek.to(torch.bfloat16), traces, key)
    assert verdict.watermarked
    assert verdict.hit_rate > 0.9


def test_verification_leaves_no_mark_on_the_model(moe, key):
    traces = generated(moe, key, epsilon=1.0)
    moe.train()
    capacities = [vars(module).get("expert_capacity") for module in moe.modules()]
    okr.verify(moe, traces[0], key, decoys=19, alpha=0.05)
    assert moe.training
    assert [vars(module).get("expert_capacity") for module in moe.modules()] == capacities


def test_a_prompt_that_was_given_can_be_left_out(moe, key):
    trace = generated(moe, key, epsilon=2.0)[0]
    whole, new = (okr.verify(moe, trace, key, skip_prompt=skip) for skip in (False, True))
    assert 0 < new.opportunities < whole.opportunities
    assert {token.index for token in new.tokens} <= set(range(trace.prompt_length, len(trace.token_ids) - 1))
    assert new.routed == sum(not site.in_encoder for site in trace.header.sites) * (trace.new_tokens - 1)


def test_counts_by_router_and_by_token_add_up(moe, key):
    traces = generated(moe, key, epsilon=2.0)
    verdict = okr.verify(moe, traces, key)
    decoder = [site for site in verdict.sites if not site.path.startswith("encoder")]
    for field in ("opportunities", "free_slots", "swaps"):
        assert sum(getattr(token, field) for token in verdict.tokens) == sum(getattr(site, field) for site in decoder)
        assert sum(getattr(site, field) for site in verdict.sites) == getattr(verdict, field)
    assert {token.trace for token in verdict.tokens} == {0, 1}
    assert all(0 <= token.matched <= token.free_slots for token in verdict.tokens)
    assert verdict.p_value <= verdict.tokens[-1].p_value <= 1.0  # equal matches rank the key lower there


def test_swaps_of_an_encoder_are_those_of_no_token():
    """Its evidence counts from the first decoder token on, which made none of its swaps."""

    def counts(tokens, swapped):
        real = torch.ones(2, dtype=torch.float64)
        whole = torch.ones(2, dtype=torch.int64)
        parts = (torch.tensor(tokens), whole, whole, real, real, torch.tensor(swapped), real, real / 2)
        return TokenCounts(*(part.double() if part.is_floating_point() else part for part in parts))

    tally = TokenTally()
    tally.open_trace(3)
    tally.add("encoder", counts([-1, -1], [5.0, 7.0]))
    tally.add("decoder", counts([0, 2], [1.0, 2.0]))
    assert [(token.index, token.swaps) for token in tally.scores()] == [(0, 1), (2, 2)]


def test_the_p_value_at_a_token_is_that_of_all_tokens_up_to_it(deepseek, key):
    trace = generated(deepseek, key, epsilon=2.0)[0]
    verdict = okr.verify(deepseek, trace, key, decoys=99, alpha=0.01)
    at = {token.index: token.p_value for token in verdict.tokens}
    assert at[verdict.tokens_needed - 1] <= 0.01
    assert all(p > 0.01 for index, p in at.items() if index < verdict.tokens_needed - 1)


def test_tokens_needed_is_where_a_shorter_trace_first_suffices(deepseek, key):
    """The decoys are other ones for every length, so the two may differ by a token or two, not by many."""
    trace = generated(deepseek, key, epsilon=1.0, zone="boundary")[0]
    verdict = okr.verify(deepseek, trace, key, decoys=99, alpha=0.01)

    def cut(tokens):
        return dataclasses.replace(
            trace, token_ids=trace.token_ids[: tokens + 1], experts=trace.experts[:tokens], prompt_length=1
        )

    p = [okr.verify(deepseek, cut(n), key, decoys=99, alpha=0.01).p_value for n in range(1, 12)]
    first = next(n for n, value in enumerate(p, 1) if value <= 0.01)
    assert abs(verdict.tokens_needed - first) <= 3
    stranger = okr.verify(deepseek, trace, Key(bytes([9]) * 32), decoys=99, alpha=0.01)
    assert stranger.watermarked or stranger.tokens_needed is None or stranger.tokens_needed < len(trace.token_ids)


def test_partial_traces_are_judged_by_what_they_hold(deepseek, key):
    """Some routers, some tokens: the rest counts as not recorded, and what is left still tells the key."""
    trace = generated(deepseek, key, epsilon=1.0, zone="boundary")[0]
    whole = okr.verify(deepseek, trace, key)
    experts = trace.experts.copy()
    experts[:, 1] = -1
    experts[::3, 0] = -1
    part = okr.verify(deepseek, dataclasses.replace(trace, experts=experts), key)
    assert part.routed == len(experts) - len(experts[::3])
    assert part.watermarked
    assert whole.hit_rate == 1.0
    only = okr.verify(deepseek, dataclasses.replace(trace, experts=np.where(experts < 0, experts, np.int16(-1))), key)
    assert (only.p_value, only.opportunities, only.watermarked) == (1.0, 0, False)


@pytest.mark.parametrize("made", [torch.float32, torch.bfloat16])
def test_a_trace_is_replayed_in_the_other_dtype(key, made):
    """On a trained model: agreement drops a little and is reported, the verdict stays."""
    other = torch.bfloat16 if made == torch.float32 else torch.float32
    model = okr.load("tiny-deepseek-moe", dtype=made).model
    torch.manual_seed(0)
    with okr.watermark(model, key, epsilon=math.inf, zone="boundary", strength=1.0) as wm:
        trace = wm.generate(input_ids=torch.randint(3, 4096, (1, 6)), max_new_tokens=32, do_sample=True).traces[0]
    replayed = okr.load("tiny-deepseek-moe", dtype=other).model
    verdict = okr.verify(replayed, trace, key)
    assert verdict.p_value < 1e-12
    assert verdict.hit_rate > 0.97
    assert verdict.dtypes == ((str(made).removeprefix("torch."),), str(other).removeprefix("torch."))
    stranger = okr.verify(replayed, trace, Key(bytes([9]) * 32))
    assert stranger.p_value > 0.001
