"""Clauses judged in processes side by side."""

from pathlib import Path

import pytest

from okr.spec import processes
from okr.spec.command import Request, judge, run
from okr.spec.runner import chosen

IMPOSTORS = f"{Path(__file__).parent / 'impostors.py'}:"
CHAPTERS = ("OKR-STR-001", "OKR-TIE-001", "OKR-TIE-002", "OKR-FAIL-001", "OKR-WEIGHT-001")


def untimed(report):
    return {name: value for name, value in report.as_dict().items() if name != "seconds"}


@pytest.mark.parametrize("implementation", ["numpy", "okr.spec.zoo.ties:HigherPreference", IMPOSTORS + "Crashes"])
def test_the_report_is_that_of_one_process(implementation, capsys):
    alone, beside = (judge(Request(implementation, CHAPTERS, "smoke", jobs=jobs)) for jobs in (1, 3))
    assert untimed(alone) == untimed(beside)
    assert [result.clause.id for result in beside.results] == [clause.id for clause in chosen(CHAPTERS)]
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]  # the same failures, in the same order


@pytest.mark.parametrize(
    ("implementation", "code", "message"),
    [
        (IMPOSTORS + "CrashesAtOnce", 3, "the adapter is broken: the first simple call failed"),
        (IMPOSTORS + "Unmakable", 3, "the adapter is broken"),
        (IMPOSTORS + "EndsTheProcess", 3, "the adapter is broken: it ended the process that ran it"),
        ("nonsense", 2, "names no implementation"),
    ],
)
def test_what_cannot_be_judged_says_so_in_one_line(implementation, code, message, capsys):
    assert run(Request(implementation, CHAPTERS, "smoke", jobs=2, timeout=5.0)) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_stranger_is_run_once(monkeypatch):
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 8)
    assert [processes.usual_jobs(name) for name in ("okr", "numpy", "router.py:Router", "cmd:./router")] == [2, 2, 1, 1]
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 1)
    assert processes.usual_jobs("okr") == 1
