"""Conformance levels: each clause belongs to one, and a level is claimed only where it is earned."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.spec import registry
from okr.spec.levels import CONDITIONAL, LEVELS, level_of, tallies
from okr.spec.report import Report
from okr.spec.report.screen import levels_text
from okr.spec.runner import Result

CLAUSES = list(registry.load().values())
VERDICTS = ("pass", "fail", "crash", "unsupported", "not applicable")


def test_every_clause_belongs_to_one_level_and_no_level_is_empty():
    found = {clause.id: level_of(clause) for clause in CLAUSES}
    assert set(found.values()) == set(LEVELS)
    assert {c.id for c in CLAUSES if found[c.id] == "core routing"} == {c.id for c in CLAUSES if c.level == "routing"}


def test_a_clause_of_a_new_chapter_is_noticed():
    with pytest.raises(ValueError, match="belongs to 0 conformance levels"):
        level_of(replace(CLAUSES[0], chapter="novel"))


@given(st.lists(st.sampled_from((*VERDICTS, None)), min_size=len(CLAUSES), max_size=len(CLAUSES)))
def test_a_level_is_claimed_only_where_nothing_else_came_out(said):
    verdicts = {clause.id: verdict for clause, verdict in zip(CLAUSES, said, strict=True) if verdict}
    for tally in tallies(verdicts, CLAUSES):
        own = [verdicts.get(clause.id) for clause in CLAUSES if level_of(clause) == tally.level]
        assert tally.conforms == (set(own) <= {"pass", "not applicable"} and "pass" in own)
        assert (tally.clauses, tally.passed) == (len(own), own.count("pass"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("verdict", ["fail", "crash", "unsupported", None])
def test_one_clause_that_did_not_pass_takes_a_level_away(level, verdict):
    mine = [clause for clause in CLAUSES if level_of(clause) == level]
    verdicts = {clause.id: "pass" for clause in CLAUSES} | {mine[-1].id: verdict}
    claimed = {tally.level: tally.conforms for tally in tallies(verdicts, CLAUSES)}
    assert [name for name, conforms in claimed.items() if not conforms] == [level]
    assert f"{level}: {len(mine) - 1} of {len(mine)}" in map(str, tallies(verdicts, CLAUSES))


def test_the_conditional_clauses_are_those_that_a_router_may_leave_out():
    """What a router that reports nothing but indices and has no such function is excused from."""
    from okr.spec.implementations.numpy_router import router
    from okr.spec.profiles import Profile
    from okr.spec.runner import run_clause
    from okr.spec.subject import Subject

    class Bare:
        projection, key_scores = router.projection, router.key_scores

        def select(self, *arrays, **setting):
            return router.select(*arrays, **setting).indices

    found = [run_clause(Subject(Bare()), c, Profile("few", 3)) for c in CLAUSES if c.level == "routing"]
    assert {result.clause.id for result in found if result.verdict == "not applicable"} == set(CONDITIONAL)
    assert {result.verdict for result in found} == {"pass", "not applicable"}


def test_a_run_of_some_clauses_speaks_of_their_levels_alone():
    verdicts = {"OKR-TIE-001": "pass", "OKR-ZONE-013": "not applicable", "OKR-WEIGHT-001": "not applicable"}
    report = Report("x", "ci", [Result(registry.load()[clause], said, 1) for clause, said in verdicts.items()])
    core = sum(clause.level == "routing" for clause in CLAUSES)
    assert levels_text(report.levels) == f"core routing: 1 of {core - 1}; serving: not applicable"
    assert report.as_dict()["levels"]["core routing"]["conforms"] is False
