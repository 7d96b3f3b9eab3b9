"""The generators really produce what the clauses are about, at stated minimum frequencies."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.spec import evidence, oracle, strategies
from okr.spec.profiles import Profile

CASES = 300


def sample(strategy, count=CASES):
    """``count`` cases, always the same."""
    drawn = []

    @Profile("sample", count, shrink=False).settings()
    @given(strategy)
    def collect(case):
        drawn.append(case)

    collect()
    return drawn


def share(cases, label):
    return sum(bool(label(case)) for case in cases) / len(cases)


@pytest.fixture(scope="module")
def cases():
    return sample(strategies.cases())


def rows(case):
    return list(oracle.rows(case))


def zones(case):
    return [zone for c, g in rows(case) for zone in oracle.zones(c, g, case.setting)]


def near(case):
    """Two different scores of a token within 2^-20 of each other."""
    for c, _ in rows(case):
        finite = sorted({x for x in c if math.isfinite(x)})
        if any(0 < b - a <= 2**-20 * max(1, abs(b)) for a, b in itertools.pairwise(finite)):
            return True
    return False


LABELS = {
    "ties among choice scores": (0.3, lambda k: any(len(set(c)) < len(c) for c, _ in rows(k))),
    "ties among key scores": (0.3, lambda k: any(len(set(g)) < len(g) for _, g in rows(k))),
    "near-ties among choice scores": (0.03, near),
    "barred experts": (0.2, lambda k: np.isneginf(k.choice).any()),
    "whole groups barred": (0.02, lambda k: k.experts >= 16 and np.isneginf(k.choice).any()),
    "k = E": (0.08, lambda k: k.setting.top_k == k.experts),
    "k = 1": (0.15, lambda k: k.setting.top_k == 1),
    "E = 1": (0.03, lambda k: k.experts == 1),
    "E of 64 or more": (0.03, lambda k: k.experts >= 64),
    "several tokens": (0.3, lambda k: k.tokens > 1),
    "boundary zone": (0.25, lambda k: k.setting.zone == "boundary"),
    "max zone": (0.25, lambda k: k.setting.zone == "max"),
    "epsilon = 0": (0.03, lambda k: k.setting.epsilon == 0),
    "epsilon = inf": (0.02, lambda k: math.isinf(k.setting.epsilon)),
    "finite strength": (0.3, lambda k: math.isfinite(k.setting.strength)),
    "infinite strength": (0.05, lambda k: math.isinf(k.setting.strength)),
    "opportunities": (0.25, lambda k: any(z.opportunity for z in zones(k))),
    "no opportunity": (0.25, lambda k: any(not z.opportunity for z in zones(k))),
    "locked experts at an opportunity": (0.02, lambda k: any(z.locked for z in zones(k))),
    "pools of 2 to 4": (0.1, lambda k: any(2 <= len(z.pool) <= 4 for z in zones(k))),
    "pools above 8": (0.02, lambda k: any(len(z.pool) > 8 for z in zones(k))),
    "numbers that are bfloat16": (0.2, lambda k: np.array_equal(k.key, strategies.bfloat16(k.key))),
}


@pytest.mark.parametrize("label", LABELS)
def test_cases_hold_enough_of(cases, label):
    least, found = LABELS[label]
    assert share(cases, found) >= least


def test_some_zones_are_open_by_rounding():
    drawn = sample(strategies.small(strength=math.inf))
    assert share(drawn, lambda k: len(zones(k)) > k.tokens) >= 0.01


def test_sound_cases_are_sound(cases):
    for case in cases:
        assert not np.isnan(case.choice).any()
        assert not np.isposinf(case.choice).any()
        assert np.isfinite(case.key).all()
        assert 1 <= case.setting.top_k <= case.experts


def test_distinct_cases_have_one_zone_and_no_ties():
    for case in sample(strategies.distinct(), 100):
        for c, g in rows(case):
            assert len(set(c)) == len(c)
            assert len(set(g)) == len(g)
            assert len(oracle.zones(c, g, case.setting)) == 1


@pytest.mark.parametrize(
    ("what", "spoilt"),
    [
        ("nan", lambda c, g, k: any(map(math.isnan, c))),
        ("inf", lambda c, g, k: math.inf in c),
        ("few", lambda c, g, k: sum(x > -math.inf for x in c) < k),
        ("key", lambda c, g, k: not all(map(math.isfinite, g))),
    ],
)
def test_unsound_cases_are_spoilt_as_told(what, spoilt):
    for case, token in sample(strategies.unsound(what), 60):
        assert [spoilt(c, g, case.setting.top_k) for c, g in rows(case)].index(True) == token
        assert oracle.zones(*rows(case)[token], case.setting) == [oracle.Zone(frozenset(), frozenset(), False)]


def test_score_cases_stay_in_the_promised_range():
    drawn = sample(strategies.score_cases())
    for case in drawn:
        largest = np.abs(case.hidden[case.hidden != 0])
        assert largest.size == 0 or 2.0**-30 <= largest.max() <= 2.0**31
    assert share(drawn, lambda k: (k.hidden == 0).all(axis=1).any()) >= 0.01
    assert share(drawn, lambda k: k.hidden.shape[1] >= 64) >= 0.1


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_bfloat16_rounds_to_the_nearest(value):
    rounded = strategies.bfloat16([value])
    bits = int(rounded.view(np.uint32)[0])
    assert bits % 2**16 == 0
    half = 2.0 ** (max(math.frexp(value)[1], -125) - 9)  # half a step of 8 significant bits
    assert abs(float(rounded[0]) - value) <= half


@pytest.fixture(scope="module")
def traces():
    """Cases of the evidence, each with its swap weights."""
    drawn = sample(strategies.evidence((0.125, 0.25, 0.5, 1.0, math.inf)))
    return [(case, evidence.answer(case)) for case in drawn]


def counting(answer):
    return [row[row != 0] for part in answer.weights for row in part if row.any()]


EVIDENCE = {
    "swaps that count": (lambda case, answer: answer.swaps, 0.3),
    "far swaps beside them": (lambda case, answer: any((abs(row) < 1).any() for row in counting(answer)), 0.1),
    "several tokens with swaps": (lambda case, answer: len(counting(answer)) > 1, 0.2),
    "a site that several traces show": (lambda case, answer: len({s.place for s in case.shown}) < len(case.shown), 0.2),
    "several sites": (lambda case, answer: len({s.place for s in case.shown}) > 1, 0.2),
    "no token at a site": (lambda case, answer: any(not len(s.choice) for s in case.shown), 0.1),
    "unrecorded experts": (lambda case, answer: any((s.experts < 0).any() for s in case.shown), 0.1),
    "a state that is not finite": (lambda case, answer: not all(np.isfinite(s.hidden).all() for s in case.shown), 0.1),
    "p below 1": (lambda case, answer: answer.p_value < 1, 0.1),
}


@pytest.mark.parametrize("label", EVIDENCE)
def test_cases_of_the_evidence_hold_enough_of(traces, label):
    holds, least = EVIDENCE[label]
    assert share(traces, lambda pair: holds(*pair)) >= least


def test_no_rounding_decides_in_cases_of_the_evidence(traces):
    for case, _ in traces:
        for shown in case.shown:
            for row in shown.choice.tolist():
                assert len(oracle.zones(row, [0.0] * len(row), case.setting)) == 1
