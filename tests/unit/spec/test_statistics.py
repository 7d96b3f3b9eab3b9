"""The bound by which a test of keys is accused, against binomial probabilities added up one by one."""

from fractions import Fraction
from math import comb

import pytest

from okr.spec.checks import all_checks
from okr.spec.profiles import PROFILES
from okr.spec.registry import load
from okr.spec.runner import run_clause
from okr.spec.statistics import CHANCE, LEVELS, require_valid
from okr.spec.subject import Subject
from okr.spec.verdicts import Violation


def beyond(most, count, level):
    """P(X > most) for X binomial (count, level), exactly."""
    p = Fraction(level)
    return sum(comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(most + 1, count + 1))


@pytest.mark.parametrize("count", [1, 4, 12, 60, 150])
@pytest.mark.parametrize("level", LEVELS)
def test_as_many_as_chance_allows_and_no_more(count, level):
    most = next(k for k in range(count + 1) if beyond(k, count, level) <= CHANCE)
    require_valid([level] * most + [1.0] * (count - most))
    if most < count:
        with pytest.raises(Violation, match=f"p <= {level} for {most + 1} of {count}"):
            require_valid([level] * (most + 1) + [1.0] * (count - most - 1))


def test_the_profile_says_over_how_many_keys(monkeypatch):
    asked = []
    for check in all_checks():
        if check.sampled:
            monkeypatch.setitem(check.__dict__, "body", lambda subject, count: asked.append(count))
    for name in ("smoke", "ci"):
        for clause in ("OKR-VERIFY-003", "OKR-TEXT-002"):
            assert run_clause(Subject(_Package()), load()[clause], PROFILES[name]).verdict == "pass"
    assert asked == [PROFILES["smoke"].cases] * 2 + [PROFILES["ci"].cases] * 2


class _Package:
    levels = ("system",)
