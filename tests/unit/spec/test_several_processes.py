"""Clauses judged in processes side by side."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        (IMPOSTORS + "EndsTheProcess", 3, "the adapter is broken: it ended the process that ran it, in the chapter"),
        ("nonsense", 2, "names no implementation"),
    ],
)
def test_what_cannot_be_judged_says_so_in_one_line(implementation, code, message, capsys):
    assert run(Request(implementation, CHAPTERS, "smoke", jobs=2, timeout=5.0)) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_what_runs_in_python_is_judged_by_two_processes_where_there_are_two_cores(monkeypatch):
    names = ("okr", "numpy", "router.py:Router", "cmd:./router", "vectors:answers.json")
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 8)
    assert [processes.usual_jobs(name) for name in names] == [2, 2, 2, 1, 1]
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 1)
    assert [processes.usual_jobs(name) for name in names] == [1, 1, 1, 1, 1]


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 5))
def test_shares_are_even(sizes, count):
    """No process has more than the average and one chapter beside it."""
    taken = processes.shares(sizes, count)
    loads = [sum(size for size, place in zip(sizes, taken, strict=True) if place == one) for one in range(count)]
    assert len(taken) == len(sizes)
    assert max(loads) <= sum(sizes) / count + max(sizes, default=0)


REMEMBERS = """
from okr.spec.implementations.numpy_router import NumpyRouter

class Router(NumpyRouter):
    calls = 0

    def select(self, *arrays, **setting):
        Router.calls += 1
        print("call", Router.calls)
        if Router.calls % 9 == 0:
            raise RuntimeError(f"call {Router.calls}")
        return super().select(*arrays, **setting)
"""


def test_what_remembers_earlier_calls_is_judged_alike_in_every_run(tmp_path, capfd):
    """And what it prints does not come between a report and its reader."""
    script = tmp_path / "router.py"
    script.write_text(REMEMBERS)
    reports = []
    for _ in range(2):
        assert run(Request(f"{script}:Router", CHAPTERS, "smoke", {"json": Path("-")}, jobs=2)) == 1
        reports.append({k: v for k, v in json.loads(capfd.readouterr().out).items() if k != "seconds"})
    assert reports[0] == reports[1]
    assert "crash" in reports[0]["counts"]


ALONE = """
import os
from okr.spec.implementations.numpy_router import NumpyRouter

class Router(NumpyRouter):
    def __init__(self):
        os.close(os.open({lock!r}, os.O_CREAT | os.O_EXCL))
"""


def test_what_cannot_be_loaded_twice_is_judged_by_one_process(tmp_path, capfd):
    script = tmp_path / "router.py"
    script.write_text(ALONE.format(lock=str(tmp_path / "lock")))
    assert run(Request(f"{script}:Router", CHAPTERS, "smoke", jobs=2)) == 0
    assert "1 of 2 processes" in capfd.readouterr().err
