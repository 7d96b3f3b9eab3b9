"""Attribution: the right key among many, none where none was there, valid p-values throughout."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control

import okr
from okr import InvalidKey, InvalidSetting, Key
from okr.detection.attribution import ENOUGH, holm

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


def test_each_p_value_is_valid(deepseek):
    """300 unrelated keys on one trace: P(p <= x) <= x. More than 36 at 0.05, or 192 at 0.5, happen with probability
    below 1e-6; sequential sampling keeps to the rule (p is ENOUGH / drawn or its floor)."""
    trace = generated(deepseek, numbered(10**6))
    found = okr.attribute(deepseek, trace, [numbered(i) for i in range(300)], alpha=0.5)
    p = np.array([candidate.p_value for candidate in found.candidates])
    assert binom.sf(36, 300, 0.05) < 1e-6
    assert binom.sf(192, 300, 0.5) < 1e-6
    assert (p <= 0.05).sum() <= 36
    assert (p <= 0.5).sum() <= 192
    assert (p > 0.5).sum() > 60
    for candidate in found.candidates:
        drawn = candidate.images
        assert candidate.p_value == ENOUGH / drawn or (drawn == 599 and candidate.p_value < ENOUGH / 599 + 1 / 600)


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


def test_progress_within_a_key_adds_up_to_one_for_each(deepseek, key):
    """Keys that are given up early, and one that is followed through several blocks of images."""
    told, keys = [], [numbered(0), key, numbered(1)]
    found = okr.attribute(deepseek, generated(deepseek, key, 40), keys, alpha=0.001, advance=told.append)
    assert found.candidates[1].images == 2999
    assert len(told) > len(keys)
    assert all(0 <= share <= 1 for share in told)
    assert sum(told) == pytest.approx(3)


@pytest.mark.parametrize(("alpha", "least"), [(1e-9, "3e-06"), (2.9e-6, "3e-06"), (5e-324, "3e-06")])
def test_more_images_than_a_million_are_refused(deepseek, key, alpha, least):
    trace = generated(deepseek, key)
    with pytest.raises(InvalidSetting, match=f"smallest alpha that 3 keys can reach is {least}"):
        okr.attribute(deepseek, trace, [numbered(i) for i in range(3)], alpha=alpha)


@given(st.integers(1, 10**6 - 1))
def test_the_smallest_alpha_that_is_named_is_accepted(keys):
    from okr.detection.attribution import images_needed

    with pytest.raises(InvalidSetting) as caught:
        images_needed(keys, keys / 2e6)
    assert images_needed(keys, float(str(caught.value).rpartition(" ")[2])) <= 10**6
