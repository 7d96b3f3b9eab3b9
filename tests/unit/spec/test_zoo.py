"""The ci profile catches every bug by each clause predicted.

``python -m okr.spec.adequacy zoo`` also asks those that must pass.
"""

import pytest

from okr.spec.profiles import PROFILES, Profile
from okr.spec.registry import load
from okr.spec.runner import run_clause
from okr.spec.subject import Subject
from okr.spec.zoo import members

CI = Profile("ci", PROFILES["ci"].cases, shrink=False)


def test_the_zoo_is_large_and_says_what_it_expects():
    assert len(members()) >= 40
    names = [member.name for member in members()]
    assert len(set(names)) == len(names)
    for member in members():
        declared = member.clauses()
        assert any(declared.values())
        assert not all(declared.values())
        assert set(declared) <= set(load())


@pytest.mark.parametrize("member", members(), ids=lambda member: member.name)
def test_every_member_is_caught(member):
    for clause, must_fail in member.clauses().items():
        if must_fail:
            assert run_clause(Subject(member.router(), timeout=5), load()[clause], CI).failed, clause


def test_every_routing_clause_is_broken_by_some_member():
    broken = {clause for member in members() for clause in member.fails}
    assert {clause.id for clause in load().values() if clause.level == "routing"} - broken == set()
