"""The implementations that ship conform; the compiled one is left to ``okr conform compile``."""

import pytest

from spec.adapters import load
from spec.profiles import Profile
from spec.registry import load as clauses
from spec.runner import run_clause, smoke
from spec.subject import Subject

SOME = Profile("some", 10, shrink=False)  # docs/adequacy.md has 10,000 cases of each


@pytest.mark.parametrize("name", ["numpy", "reordered", "float64", "torch"])
def test_correct_implementations_conform(name):
    subject = Subject(load(name))
    smoke(subject)
    results = [run_clause(subject, clause, SOME) for clause in clauses().values()]
    assert {r.clause.id: r.note or r.failure for r in results if r.verdict not in ("pass", "not applicable")} == {}
    assert {r.clause.level for r in results if r.verdict == "not applicable"} == {"system"}


def test_the_package_keeps_the_system_clauses():
    subject = Subject(load("okr"))
    results = [
        run_clause(subject, c, Profile("few", 10, shrink=False)) for c in clauses().values() if c.level == "system"
    ]
    assert {r.clause.id: r.note or r.failure for r in results if r.verdict != "pass"} == {}
