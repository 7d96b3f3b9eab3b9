"""Many traces in one process: each a test of its own, all of them one, from one replay of each."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import okr
from okr.detection import verdict
from okr.engines.transformers import TransformersEngine, engine, proof

SETTING = {"epsilon": 2.0, "zone": "max", "strength": math.inf}


def made(model, key, rows, tokens=16):
    """Traces of ``rows`` sampled texts, under ``key`` or (None) natively."""
    torch.manual_seed(rows)
    run = okr.record(model) if key is None else okr.watermark(model, key, **SETTING)
    with run as session:
        ids = torch.randint(3, 256, (rows, 4))
        return session.generate(input_ids=ids, max_new_tokens=tokens, do_sample=True).traces


def test_each_is_what_verify_says_of_it_and_pooled_what_it_says_of_all(moe, key):
    """Encoder and decoder; the counts by token as well."""
    traces = [*made(moe, key, 2), *made(moe, None, 1)]
    options = {**SETTING, "decoys": 99, "alpha": 0.05}
    heard = []
    found = okr.verify_each(moe, traces, key, **options, advance=heard.append)
    assert list(found.each) == [okr.verify(moe, trace, key, **options) for trace in traces]
    assert found.pooled == okr.verify(moe, traces, key, **options)
    assert heard == [1, 1, 1]


def test_a_model_is_found_and_proven_once_and_every_trace_replayed_once(moe, key, monkeypatch):
    counted = Counter()

    def count(owner, name):
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (counted.update([name]), whole(*given))[1])

    traces = made(moe, key, 24, tokens=4)
    count(engine, "discover")
    count(proof, "prove")
    count(TransformersEngine, "replay")
    okr.verify_each(moe, traces, key, decoys=9, alpha=0.1)
    sites = len(traces[0].header.sites)
    assert counted == {"discover": 1, "prove": sites, "replay": 24}
    prepared = okr.prepare(moe)
    okr.verify(prepared, traces[:3], key, decoys=9, alpha=0.1)
    okr.attribute(prepared, traces[:2], [key])
    with okr.watermark(prepared, key, **SETTING):
        pass
    assert counted == {"discover": 2, "prove": 2 * sites, "replay": 24 + 3 + 2}


def test_one_marked_trace_among_many_moves_the_pooled_test_and_itself_alone(deepseek, key):
    """What the pooled test rejects is that none was marked; it never says that all were."""
    traces = [*made(deepseek, None, 11), *made(deepseek, key, 1, tokens=120)]
    found = okr.verify_each(deepseek, traces, key, **SETTING, alpha=0.01)
    assert found.pooled.watermarked
    assert not found.every
    assert found.each[-1].watermarked
    assert [p <= 0.01 for p in found.adjusted_p] == [False] * 11 + [True]
    lines = str(found).splitlines()
    assert lines[0].endswith("1 after Holm's correction for 12 tests")
    assert lines[1].startswith(f"pooled test of all 12: at least one of them was made under key {key.id}: p = ")


@given(p=st.lists(st.integers(1, 20).map(lambda rank: rank / 20), min_size=1, max_size=6))
def test_adjusted_p_values_are_those_of_the_closed_test(p):
    """Holm's step-down against its definition: the closure of Bonferroni's test over every set that holds an index."""
    sets = range(1, 2 ** len(p))
    for index, adjusted in enumerate(verdict.holm(p)):
        holding = [[p[i] for i in range(len(p)) if number >> i & 1] for number in sets if number >> index & 1]
        assert adjusted == pytest.approx(max(min(1.0, len(part) * min(part)) for part in holding))


@pytest.mark.parametrize("traces", [[], ["trace"]])
def test_what_is_no_trace_is_refused(deepseek, key, traces):
    with pytest.raises(okr.InvalidTrace):
        okr.verify_each(deepseek, traces, key)
