"""Where a key acted: windows whose p-values are valid all at once, and the spans that are made of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from transformers import DynamicCache

import okr
from okr.detection import TokenSwaps, Windows, gather_evidence, locate, spans_of, windows
from okr.detection.spans import joined
from okr.routing import Setting

HARD = {"epsilon": 1.0, "zone": "boundary", "strength": math.inf}


def mixed(model, stretches, seed=0):
    """A trace generated stretch by stretch, each under its key or (None) natively, after 6 given tokens."""
    cache, ids, experts = DynamicCache(), torch.arange(3, 9)[None], []
    options = {"do_sample": True, "suppress_tokens": [0, model.generation_config.eos_token_id or 0]}
    torch.manual_seed(seed)
    for length, key in stretches:
        before = cache.get_seq_length()
        run = okr.record(model) if key is None else okr.watermark(model, key, **HARD)
        with run as session:
            made = session.generate(ids, past_key_values=cache, max_new_tokens=length, **options)
        ids = made.sequences
        experts.append(made.traces[0].experts[before:])
    return replace(made.traces[0], experts=np.concatenate(experts), prompt_length=6)


@given(st.integers(0, 3000))
def test_the_windows_share_alpha(tokens):
    """The parts of alpha add up to one, and every window lies within the tokens; each token is in one alone."""
    found = Windows.over(tokens)
    assert math.isclose((1 / found.tests).sum(), 1.0 if tokens else 0.0)
    assert ((found.starts >= 0) & (found.starts < found.ends) & (found.ends <= tokens)).all()
    single = found.starts[found.ends == found.starts + 1]
    assert single.tolist() == list(range(tokens))
    assert len(found.starts) <= 11 * tokens


def test_the_windows_over_seven_tokens_by_hand():
    found = Windows.over(7)
    pairs = list(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
    lengths = [1, 2, 3, 4, 6, 7]
    assert pairs == [(start, start + length) for length in lengths for start in range(8 - length)]
    assert found.tests.tolist() == [6 * (8 - length) for length in lengths for _ in range(8 - length)]
    assert sorted(set((Windows.over(40).ends - Windows.over(40).starts).tolist())) == [
        1,
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
        32,
        40,
    ]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.floats(0, 1)), max_size=12), st.floats(0.01, 1))
def test_spans_are_unions_of_the_shortest_windows(given_windows, alpha):
    """Against the definition, window by window."""
    starts, lengths, p = (
        (np.array(part) for part in zip(*given_windows, strict=True)) if given_windows else [np.zeros(0)] * 3
    )
    starts, ends = starts.astype(int), (starts + lengths).astype(int)
    small = {(a, b) for a, b, one in zip(starts, ends, p, strict=True) if one <= alpha}
    shortest = {(a, b) for a, b in small if not any(a <= c and d <= b for c, d in small - {(a, b)})}
    expected = []
    for window in sorted(shortest):
        gap = window[0] - expected[-1][-1][1] if expected else math.inf
        if expected and gap <= min(window[1] - window[0], expected[-1][-1][1] - expected[-1][-1][0]):
            expected[-1].append(window)
        else:
            expected.append([window])
    expected = [(chain[0][0], chain[-1][1]) for chain in expected]
    found = joined(Windows(starts, ends, np.ones(len(starts), int)), p, alpha)
    assert [(start, end) for start, end, _ in found] == expected
    for start, end, least in found:
        assert least == min(
            o for a, b, o in zip(starts, ends, p, strict=True) if start <= a and b <= end and o <= alpha
        )


def test_keyed_passages_are_found_and_native_ones_are_not(deepseek, key, other_key):
    trace = mixed(deepseek, [(20, None), (40, key), (60, None), (40, key), (20, None)])
    found = okr.locate(deepseek, trace, key, **HARD)
    keyed = np.zeros(len(trace.token_ids) - 1, bool)
    keyed[25:65] = keyed[125:165] = True
    assert len(found.spans) == 2
    assert found
    assert "2 spans" in str(found)
    for span, part in zip(found.spans, (slice(25, 65), slice(125, 165)), strict=True):
        assert span.p_value <= 0.01
        assert part.start <= span.start < span.end <= part.stop
        assert span.swaps == sum(found.swaps[span.start : span.end])
    assert not okr.locate(deepseek, trace, other_key, **HARD)
    later = okr.locate(deepseek, trace, key, **HARD, skip_prompt=True)
    assert (later.first, len(later.swaps)) == (6, len(trace.token_ids) - 7)
    assert [span.end for span in later.spans] == [span.end for span in found.spans]


def test_p_values_are_valid_over_keys_that_had_no_part(deepseek, other_key):
    """600 keys on one trace that another key made. More than 56 at p <= 0.05, or 24 at 0.01, happen with probability
    below 1e-5 if the test is exact; the bound is wide, so there are fewer by far."""
    trace = mixed(deepseek, [(80, other_key)])
    found = gather_evidence(okr.prepare(deepseek), trace, Setting(1.0, "boundary", math.inf), skip_prompt=False)
    p = np.array([spans_of(found, trace, okr.Key.public(f"spans {n}"), alpha=0.05).p_value for n in range(600)])
    for level, most in ((0.05, 56), (0.01, 24)):
        assert binom.sf(most, 600, level) < 1e-5
        assert (p <= level).sum() <= most
    assert len(spans_of(found, trace, other_key, alpha=0.05).spans) >= 1


def test_the_norm_of_a_window_is_that_of_its_tokens_alone(deepseek, key, monkeypatch):
    """Summed in parts and as differences of sums, across the ends of both."""
    monkeypatch.setattr(windows, "LONGEST", 16)
    monkeypatch.setattr(windows, "_PART", 7)
    trace = mixed(deepseek, [(70, key)])
    found = gather_evidence(okr.prepare(deepseek), trace, Setting(1.0, "boundary", math.inf), skip_prompt=False)
    tokens = len(trace.token_ids) - 1
    swaps, over = TokenSwaps(found, key, 0, tokens), Windows.over(tokens)
    assert max(over.ends - over.starts) == tokens
    norms = swaps.squared_norms(over)
    for index in range(0, len(norms), 11):
        start, end = over.starts[index], over.ends[index]
        parts = [replace_rows(evidence, (evidence.tokens >= start) & (evidence.tokens < end)) for evidence in found]
        tally = [okr.detection.SwapTally(part.site.hidden_size, part.site.num_experts) for part in parts]
        for one, part in zip(tally, parts, strict=True):
            one.add(part)
        assert math.isclose(norms[index], sum(one.squared_norm() for one in tally), abs_tol=1e-9)


def test_a_norm_at_the_limit_is_none(deepseek, key, monkeypatch):
    """A window whose squared norm is ``CANCELLED`` to the last bit shows nothing; one of the next number may."""
    trace = mixed(deepseek, [(40, key)])
    found = gather_evidence(okr.prepare(deepseek), trace, Setting(1.0, "boundary", math.inf), skip_prompt=False)
    for norm, shows in ((windows.CANCELLED, False), (np.nextafter(windows.CANCELLED, 1), True)):
        monkeypatch.setattr(TokenSwaps, "squared_norms", lambda self, over, norm=norm: np.full(len(over.starts), norm))
        assert (spans_of(found, trace, key, alpha=0.5).p_value < 1) is shows


def test_as_many_swaps_of_random_keys_as_break_a_window_do(deepseek, key):
    """``BREAK`` itself breaks, and less does not."""
    trace = mixed(deepseek, [(4, key)])
    found = gather_evidence(okr.prepare(deepseek), trace, Setting(1.0, "boundary", math.inf), skip_prompt=False)
    swaps = TokenSwaps([replace_rows(part, part.tokens < 0) for part in found], key, 0, 5)
    swaps.counting = np.array([True, False, False, True, False])
    over = Windows(np.array([0]), np.array([4]), np.array([1]))
    for expected, broken in ((windows.BREAK / 2, True), (windows.BREAK / 2 - 0.5, False)):
        swaps.expected = np.full(5, expected)
        assert swaps._broken(over).tolist() == [broken]


def replace_rows(evidence, here):
    """The evidence at some of the opportunities."""
    names = ("choice", "hidden", "experts", "pool", "locked", "free", "tokens")
    return replace(evidence, **{name: getattr(evidence, name)[here] for name in names})


def test_what_has_no_evidence_has_no_span(deepseek, key):
    native = mixed(deepseek, [(30, None)])
    unrecorded = replace(native, experts=np.full_like(native.experts, -1))
    short = replace(native, token_ids=native.token_ids[:2], experts=native.experts[:1], prompt_length=1)
    for trace, options in ((native, {}), (unrecorded, {}), (short, {}), (short, {"skip_prompt": True})):
        found = locate(deepseek, trace, key, **HARD, **options)
        assert (found.p_value, found.spans, bool(found)) == (1.0, (), False)
    nowhere = locate(deepseek, native, key, epsilon=0.0, zone="max", strength=math.inf)
    assert (nowhere.p_value, set(nowhere.swaps)) == (1.0, {0})
    assert "no span of" in str(nowhere)


def test_tokens_without_evidence_have_no_part(deepseek, key):
    trace = mixed(deepseek, [(60, key)])
    found = gather_evidence(okr.prepare(deepseek), trace, Setting(1.0, "boundary", math.inf), skip_prompt=False)
    late = [replace_rows(evidence, evidence.tokens >= 30) for evidence in found]
    kept = spans_of(late, trace, key, alpha=0.5)
    assert kept
    assert all(span.start >= 30 for span in kept.spans)
    assert not any(kept.swaps[:30])


@pytest.mark.parametrize("alpha", [0, 1, -1, math.nan, "0.01", True, None])
def test_levels_out_of_range_are_refused(deepseek, key, alpha):
    trace = mixed(deepseek, [(4, None)])
    with pytest.raises(okr.InvalidSetting, match="alpha must lie between 0 and 1"):
        locate(deepseek, trace, key, **HARD, alpha=alpha)
    with pytest.raises(okr.InvalidSetting, match="which epsilon"):
        locate(deepseek, trace, key)
