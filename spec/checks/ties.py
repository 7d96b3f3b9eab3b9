"""Chapter TIE: numbers that tie, and numbers that only nearly do."""

import math

import numpy as np
from hypothesis import strategies as st

from .. import judge, strategies
from ..cases import SelectCase, Setting
from ..subject import Subject
from ..verdicts import require
from . import check


def _lists(values: st.SearchStrategy[float], count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=count, max_size=count)


def _case(choice: list[float], key: list[float], setting: Setting) -> SelectCase:
    return SelectCase(np.array([choice], np.float32), np.array([key], np.float32), setting)


@st.composite
def _tied_keys(draw: st.DrawFn, zeros: bool = False) -> SelectCase:
    """Every expert competes; key scores from few values, choice scores all different."""
    count = draw(st.sampled_from((*range(2, 9), 24)))
    values = st.sampled_from((0.0, -0.0)) if zeros else st.integers(0, 2).map(float)
    choice = [float(v) for v in draw(st.permutations(range(count)))]
    setting = Setting(draw(st.integers(1, count)), math.inf, draw(st.sampled_from(strategies.ZONES)))
    return _case(choice, draw(_lists(values, count)), setting)


@check("OKR-TIE-001", _tied_keys)
def equal_preferences_go_to_the_lower_index(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@st.composite
def _tied_choice(draw: st.DrawFn) -> SelectCase:
    """Scores from few values and no opportunity anywhere: the key is not finite."""
    count = draw(st.sampled_from((*range(2, 9), 24)))
    choice = draw(_lists(st.integers(0, 2).map(float), count))
    setting = Setting(draw(st.integers(1, count)), draw(st.sampled_from((0.0, 1.0))), "boundary")
    return _case(choice, [math.nan] * count, setting)


@check("OKR-TIE-002", _tied_choice)
def native_ties_go_to_the_lower_index(subject: Subject, case: SelectCase) -> None:
    got, expected = subject.select(case).indices, judge.native(case)
    require(np.array_equal(got, expected), "ties in the native selection", expected=expected, got=got)


@st.composite
def _tied_order(draw: st.DrawFn) -> SelectCase:
    """Choice scores all equal or of two values, keys all different: only the order of the output is at stake."""
    count = draw(st.sampled_from((*range(2, 9), 24)))
    choice = draw(_lists(st.integers(0, 1).map(float), count))
    key = [float(v) for v in draw(st.permutations(range(count)))]
    return _case(choice, key, Setting(draw(st.integers(1, count)), math.inf))


@check("OKR-TIE-003", _tied_order)
def output_ties_go_to_the_lower_index(subject: Subject, case: SelectCase) -> None:
    taken = subject.select(case).indices[0].tolist()
    expected = sorted(taken, key=lambda e: (-case.choice[0, e], e))
    require(taken == expected, "equal choice scores out of index order", expected=expected, got=taken)


@check("OKR-TIE-004", lambda: _tied_keys(zeros=True))
def both_zeros_are_one_number(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)
    swapped = SelectCase(case.key, np.abs(case.choice), Setting(case.setting.top_k, 0.0, "max"))
    judge.legal(subject, swapped)


@st.composite
def _tied_sums(draw: st.DrawFn) -> SelectCase:
    """Finite strength; sums that are exact in float32 and collide often, also between different choice scores."""
    count = draw(st.integers(2, 8))
    choice, key = draw(_lists(st.integers(-2, 2).map(float), count)), draw(_lists(st.integers(-2, 2).map(float), count))
    setting = Setting(draw(st.integers(1, count - 1)), math.inf, "max", draw(st.sampled_from((0.5, 1.0, 2.0))))
    return _case(choice, key, setting)


@check("OKR-TIE-005", _tied_sums)
def exact_sums_tie_exactly(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@st.composite
def _twins(draw: st.DrawFn) -> SelectCase:
    """Experts of one or two kinds, alike within a kind; the sums are not exact."""
    count = draw(st.sampled_from((*range(2, 9), 24)))
    sevenths = st.integers(-28, 28).map(lambda n: n / 7)
    kinds = draw(st.lists(st.tuples(sevenths, sevenths), min_size=1, max_size=2))
    choice, key = zip(*draw(st.lists(st.sampled_from(kinds), min_size=count, max_size=count)), strict=True)
    strength = draw(st.sampled_from((0.1, 0.3, 0.7, 1 / 3, 1e-3)))
    return _case([*choice], [*key], Setting(draw(st.integers(1, count - 1)), math.inf, "max", strength))


@check("OKR-TIE-005", _twins)
def twins_tie_whatever_rounding_does(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@st.composite
def _nearly_tied(draw: st.DrawFn) -> SelectCase:
    """Key scores one to six places apart in float32, all different."""
    count = draw(st.integers(2, 7))
    anchor = draw(st.sampled_from((1.0, -1.0, 0.1, 3.0, 1e-20, 1e20)))
    key = [strategies.step(anchor, n) for n in draw(st.permutations(range(-3, 4)))[:count]]
    choice = [float(v) for v in draw(st.permutations(range(count)))]
    return _case(choice, key, Setting(draw(st.integers(1, count)), math.inf, draw(st.sampled_from(strategies.ZONES))))


@check("OKR-TIE-006", _nearly_tied)
def near_ties_are_no_ties(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@check("OKR-TIE-007", _nearly_tied)
def near_ties_of_choice_scores_are_no_ties(subject: Subject, case: SelectCase) -> None:
    setting = Setting(case.setting.top_k, 0.0, case.setting.zone)
    judge.legal(subject, SelectCase(case.key, case.choice, setting))
