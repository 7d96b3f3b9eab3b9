"""The oracle of the evidence against all keys there are, and by what the text promises of it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okr.spec import evidence, strategies
from okr.spec.verdicts import Violation

entries = st.lists(st.floats(-4, 4).filter(lambda w: abs(w) > 1e-3), min_size=1, max_size=9)
cases = strategies.evidence((0.125, 0.25, 0.5, 1.0, math.inf))
derandomised = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def distances(total):
    """z of a W [1, E] under every projection."""
    keys = itertools.product((1, -1), repeat=total.size)
    return sorted(evidence.distance([(total, np.array([signs]))]) for signs in keys)


@derandomised
@given(entries)
def test_the_p_value_is_valid_over_all_keys(weights):
    """P(p <= x) <= x, exactly: at each attained p the share of keys with as small a one is at most p."""
    p_values = sorted(evidence.p_value(z) for z in distances(np.array([weights])))
    for place, p in enumerate(p_values, 1):
        if place == len(p_values) or p_values[place] > p * (1 + 1e-9):
            assert place / len(p_values) <= p * (1 + 1e-9)


def test_no_smaller_constant_would_do():
    """Two equal entries: a quarter of all keys has z = sqrt 2, and p is that quarter."""
    *_, largest = distances(np.array([[1.0, 1.0]]))
    assert math.isclose(largest, math.sqrt(2))
    assert math.isclose(evidence.p_value(largest), 0.25)


@pytest.mark.parametrize(("z", "p"), [(-1.0, 1.0), (0.0, 1.0), (0.48, 1.0), (3.0, 3.1786556 * 0.0013498980)])
def test_p_at_a_few_z(z, p):
    assert math.isclose(evidence.p_value(z), p, rel_tol=1e-6)
    assert evidence.p_value(50.0) == 1e-300


@derandomised
@given(cases)
def test_states_count_by_their_direction(case):
    scaled = tuple(replace(shown, hidden=4 * shown.hidden) for shown in case.shown)
    before, after = evidence.answer(case), evidence.answer(replace(case, shown=scaled))
    assert math.isclose(before.z, after.z, rel_tol=1e-12, abs_tol=1e-12)


@derandomised
@given(cases)
def test_tokens_twice_are_tokens_once(case):
    assert math.isclose(
        evidence.answer(case).z, evidence.answer(replace(case, shown=case.shown * 2)).z, rel_tol=1e-9, abs_tol=1e-12
    )


@derandomised
@given(cases)
def test_a_longer_reach_brings_more_experts_in(case):
    short, long = (
        evidence.answer(case),
        evidence.answer(replace(case, setting=replace(case.setting, strength=math.inf))),
    )
    for few, many in zip(short.weights, long.weights, strict=True):
        assert ((few == 0) | (many != 0)).all()
        assert (abs(few) <= abs(many)).all()


def test_closeness_is_relative_and_notices_small_differences():
    for right, wrong in ((1.0, 1 + 1e-5), (1e-200, 1.0001e-200), (0.0, 1e-9), (1e-300, 0.0)):
        evidence.require_close("x", right, right * (1 + 1e-8))
        with pytest.raises(Violation):
            evidence.require_close("x", right, wrong)
    evidence.require_same_z("x", 0.0, 1e-10)
    with pytest.raises(Violation):
        evidence.require_same_z("x", 0.0, 1e-8)
