"""One test a clause."""

import pytest

from okr.spec.profiles import PROFILES
from okr.spec.registry import Clause
from okr.spec.report import failure_text
from okr.spec.runner import run_clause
from okr.spec.subject import Subject


def test_clause(clause: Clause, subject: Subject, request: pytest.FixtureRequest) -> None:
    result = run_clause(subject, clause, PROFILES[request.config.getoption("--okr-profile")])
    if result.verdict == "not applicable":
        pytest.skip(result.note)
    if result.failed:
        pytest.fail(failure_text(result, request.config.getoption("--okr-impl")), pytrace=False)
    assert result.verdict == "pass", f"{result.verdict}: {result.note}"
