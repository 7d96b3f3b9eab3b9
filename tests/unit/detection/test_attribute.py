"""Attribution: the right key among many, none where none was there, valid p-values throughout."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

import okr
from okr import InvalidKey, InvalidSetting, Key
from okr.detection.attribution import DECOYS, FINALISTS
from okr.detection.verdict import holm

SETTING = {"epsilon": 1.0, "zone": "boundary"}


def numbered(i):
    return Key(i.to_bytes(16, "big"))


def generated(model, key, tokens=16):
    torch.manual_seed(1)
    with okr.watermark(model, key, **SETTING) as wm:
        ids = torch.randint(3, 256, (1, 6))
        return wm.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True).traces[0]


def test_the_right_key_among_others_and_none_without_it(moe, key):
    trace = generated(moe, key, 120)
    strangers = [numbered(i) for i in range(20)]
    found = okr.attribute(moe, trace, [*strangers[:13], key, *strangers[13:]])
    assert found.key_id == key.id
    assert [candidate.key_id for candidate in found.candidates][13] == key.id
    assert found.candidates[13].adjusted_p <= 0.01
    assert str(found).startswith(f"key {key.id}")
    none = okr.attribute(moe, trace, strangers)
    assert none.key_id is None
    assert str(none).startswith("none of 20 keys")
    assert none == okr.attribute(moe, trace, strangers)


def test_each_p_value_is_that_of_verification(moe, key):
    """Of the finalists, the keys with the most evidence in the swaps. The others' can only be larger."""
    trace = generated(moe, key, 30)
    keys = [*(numbered(i) for i in range(5)), key]
    found = okr.attribute(moe, trace, keys)
    verdicts = [okr.verify(moe, trace, claimed, decoys=DECOYS) for claimed in keys]
    assert [candidate.z for candidate in found.candidates] == [verdict.z for verdict in verdicts]
    last = sorted((verdict.z for verdict in verdicts), reverse=True)[FINALISTS - 1]
    for candidate, verdict in zip(found.candidates, verdicts, strict=True):
        expected = verdict.p_value if verdict.z >= last else min(1.0, 2 * verdict.swaps_p)
        assert candidate.p_value == expected >= verdict.p_value


def test_a_key_is_found_among_thousands_at_a_small_level(deepseek, key):
    """No number of decoys could reach this level."""
    found = okr.attribute(deepseek, generated(deepseek, key, 120), [*map(numbered, range(3000)), key], alpha=1e-9)
    assert found.key_id == key.id


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
def test_holm_is_the_step_down_correction(p_values):
    """Against the definition: reject in order while p_(i) <= alpha / (m - i + 1)."""
    adjusted = holm(p_values)
    ordered = sorted(p_values)
    for alpha in (1e-3, 0.01, 0.05, 0.3):
        rejected = 0
        while rejected < len(ordered) and ordered[rejected] * (len(ordered) - rejected) <= alpha:
            rejected += 1
        assert sum(p <= alpha for p in adjusted) == rejected
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert all(a >= b - 1e-12 for a, b in zip(adjusted, false_discovery_control(p_values), strict=True))


def test_no_opportunity_attributes_nothing(deepseek, key, other_key):
    found = okr.attribute(deepseek, generated(deepseek, key), [key, other_key], epsilon=0.0)
    assert found.key_id is None
    assert str(found) == "cannot tell: no opportunities"
    assert [candidate.p_value for candidate in found.candidates] == [1.0, 1.0]


def test_bad_input_is_refused(deepseek, key):
    trace = generated(deepseek, key)
    with pytest.raises(InvalidKey, match="at least one"):
        okr.attribute(deepseek, trace, [])
    with pytest.raises(InvalidKey, match="twice"):
        okr.attribute(deepseek, trace, [key, Key(bytes(range(32)))])
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidSetting):
            okr.attribute(deepseek, trace, [key], alpha=alpha)


def test_progress_counts_the_keys(deepseek, key):
    told = []
    okr.attribute(deepseek, generated(deepseek, key), [numbered(0), key, numbered(1)], advance=told.append)
    assert told == [1, 1, 1]
