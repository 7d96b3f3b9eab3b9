"""The implementations that ship conform; the compiled one is left to ``okr conform compile``.

That okr itself keeps the clauses is what ``pytest spec`` asks, of every clause and in the profile ci (.ci/run).
"""

import subprocess

import pytest

from okr.spec.adapters import load
from okr.spec.profiles import Profile
from okr.spec.registry import load as clauses
from okr.spec.runner import chosen, run_clause, smoke
from okr.spec.subject import Subject

SOME = Profile("some", 10, shrink=False)  # docs/adequacy.md has 10,000 cases of each


@pytest.mark.parametrize("name", ["numpy", "reordered", "float64", "torch", "autocast", "numba"])
def test_correct_implementations_conform(name):
    subject = Subject(load(name))
    smoke(subject)
    results = [run_clause(subject, clause, SOME) for clause in clauses().values()]
    assert {r.clause.id: r.note or r.failure for r in results if r.verdict not in ("pass", "not applicable")} == {}
    assert {r.clause.id for r in results if r.verdict == "not applicable" and r.clause.level == "routing"} == set()


def test_an_implementation_may_run_any_experts_where_the_text_leaves_it_to_the_family():
    subject = Subject(load("okr.spec.implementations.variants:otherwise_native"))
    results = [
        run_clause(subject, c, Profile("more", 40, shrink=False))
        for c in chosen(["OKR-ZONE", "OKR-FAIL", "OKR-SEL-001"])
    ]
    assert {r.clause.id: r.failure for r in results if r.verdict != "pass"} == {}


COMPILED = """
import math, torch
from okr.routing import selection
choice, key = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(3))
compiled = torch.compile(selection.select, dynamic=True, backend="eager")
for number in (0.5, 0.25, math.inf, 1.0, math.inf):
    for setting in ({"epsilon": 2.0, "strength": number}, {"epsilon": number, "strength": math.inf}):
        answers = (select(choice, key, top_k=2, zone="boundary", **setting) for select in (compiled, selection.select))
        assert torch.equal(*(answer.indices for answer in answers)), setting
"""


def test_compiled_graphs_tell_infinite_strength_from_finite(warm):
    """A graph made for any finite number must not serve infinity: torch puts no guard on ``== inf``.

    A process of its own, because the shapes that this one checks at every call cannot be compiled.
    """
    done = subprocess.run([warm / "python", "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
