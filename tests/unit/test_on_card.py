"""The command for a card, at its tiny size; and how it takes steps that crash, hang or are stopped."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from scripts import ROOT, script

BENCH = "bench/on_card.py"
STUBS = """
import os, signal, sys
sys.path.insert(0, "bench")
import on_card
from card import worker

def do(step, sizes, folder, shared, note):
    note("process", os.getpid())
    if {broken} and step == "experiment":
        raise ArithmeticError("it broke")
    if {broken} and step == "cost":
        os.kill(os.getpid(), signal.SIGKILL)
    if {broken} and step == "verification":
        os.kill(os.getppid(), signal.SIGINT)
    while {broken} and step in ("tests", "verification"):
        signal.pause()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
worker._do = do
on_card.STEPS = dict(tests=0.5 if {broken} else 600, experiment=600, cost=600, router=600, verification=600)
on_card.main()
"""


def run(python: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A process of its own, which sees no card."""
    return subprocess.run(
        [python, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_step_runs_at_the_tiny_size_and_only_what_is_missing_runs_again(warm, tmp_path):
    first = run(warm / "python", BENCH, "--out", tmp_path / "new" / "figures", "--tiny")
    assert first.returncode == 0, first.stdout + first.stderr
    folder = tmp_path / "new" / "figures"
    summary = json.loads((folder / "summary.json").read_text())
    steps = script("bench/on_card").STEPS
    assert [(step["step"], step["whole"]) for step in summary["steps"]] == [(name, True) for name in steps]
    assert not list(folder.glob("*.part.json"))
    figures = {name: json.loads((folder / f"{name}.json").read_text()) for name in steps}
    assert all({"processor", "torch", "transformers", "date"} <= set(found["machine"]) for found in figures.values())
    assert figures["tests"]["figures"]["collected"] > 20
    verdicts = {row["what"]: row["verdict"] for row in summary["rows"]}
    assert verdicts["the guide's experiment"] == verdicts["bfloat16, batch 8 judged at batch 1"] == "holds"
    assert all(row["figure"] for row in summary["rows"])
    assert (folder / "summary.md").read_text() in first.stdout

    (folder / "hit-rates.json").unlink()
    before = {name: (folder / f"{name}.json").stat().st_mtime_ns for name in steps if name != "hit-rates"}
    again = run(warm / "python", BENCH, "--out", folder, "--tiny")
    assert again.returncode == 0, again.stdout + again.stderr
    assert before == {name: (folder / f"{name}.json").stat().st_mtime_ns for name in before}
    assert json.loads((folder / "hit-rates.json").read_text())["figures"] == figures["hit-rates"]["figures"]


def test_a_step_that_crashes_hangs_or_is_stopped_loses_nothing_of_the_others(warm, tmp_path):
    done = run(warm / "python", "-c", STUBS.format(broken=True), "--out", tmp_path, "--tiny")
    assert done.returncode == 130, done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        f"on_card: stopped; {tmp_path} keeps the figures of the steps that are done, and the same command goes on"
    ]
    said = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.part.json")}
    assert "left for it" in said["tests.part.json"]["error"]
    assert not said["tests.part.json"]["figures"] or " in do" in (tmp_path / "tests.log").read_text()
    assert said["experiment.part.json"]["error"] == "ArithmeticError: it broke"
    assert "SIGKILL" in said["cost.part.json"]["error"]
    router = json.loads((tmp_path / "router.json").read_text())
    assert router["whole"]
    processes = {found["figures"]["process"] for found in (router, *said.values()) if found["figures"]}
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]

    healed = run(warm / "python", "-c", STUBS.format(broken=False), "--out", tmp_path, "--tiny")
    assert healed.returncode == 0, healed.stdout + healed.stderr
    assert "router: figures are there already" in healed.stdout
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        "tests",
        "experiment",
        "cost",
        "router",
        "verification",
        "summary",
    }


def test_what_cannot_run_says_so_in_one_line(warm, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "cost.json").write_text("{")
    (tmp_path / "full").mkdir()
    document = {"step": "cost", "size": "16B", "whole": True, "seconds": 1.0, "figures": {}}
    (tmp_path / "full" / "cost.json").write_text(json.dumps(document))
    for folder, options, reason in (
        ("file", ["--tiny"], "cannot write to the folder"),
        ("file/below", ["--tiny"], "cannot write to the folder"),
        ("damaged", ["--tiny"], "holds no figures of the step cost: remove it"),
        ("full", ["--tiny"], "holds figures of the size 16B (cost): choose another folder with --out"),
        ("new", [], "torch sees no CUDA card; --tiny does the same steps on the CPU"),
    ):
        done = run(warm / "python", BENCH, "--out", tmp_path / folder, *options)
        assert done.returncode == 1, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("on_card: ")
        assert reason in done.stderr
    wrong = run(warm / "python", BENCH, "--out", tmp_path, "--limit", "-1")
    assert wrong.returncode == 2
    assert "--limit" in wrong.stderr.splitlines()[-1]


def test_the_page_lists_every_step_with_its_seconds():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    told = {name: int(seconds) for name, seconds in re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", page, re.MULTILINE)}
    steps = script("bench/on_card").STEPS
    assert told == steps
    assert sum(steps.values()) <= 540


@pytest.fixture
def summary():
    return script("bench/card/summary")


def ratio(low: float | None, middle: float, high: float | None) -> dict[str, float | None]:
    return {"ratio": middle, "low": low, "high": high}


def test_a_ratio_holds_where_its_whole_interval_does_and_the_worst_decides(summary):
    good, wide, bad = ratio(0.98, 1.0, 1.01), ratio(0.99, 1.01, 1.03), ratio(1.03, 1.05, 1.06)
    for cases, verdict in (
        ([good], "holds"),
        ([good, wide], "not decided"),
        ([good, wide, bad], "does not hold"),
        ([good, ratio(None, 1.0, None)], "not decided"),
        ([], "not measured"),
    ):
        row = summary.worst("what", 1.02, {str(number): case for number, case in enumerate(cases)})
        assert row.verdict == verdict
        assert not cases or row.figure.startswith(f"{max(case['ratio'] for case in cases):.3f}")
    assert summary.worst("what", 1.02, {"a": good}, ["b"]).verdict == "not decided"


@pytest.mark.parametrize(
    ("outcomes", "collected", "status", "verdict"),
    [
        (["passed", "passed"], 2, 0, "holds"),
        (["passed", "skipped: needs the real weights"], 2, 0, "holds"),
        (["passed", "skipped: needs 40 GiB free on the card"], 2, 0, "does not hold"),
        (["passed", "failed"], 2, 1, "does not hold"),
        (["passed"], 2, None, "not measured"),
        ([], 27, 0, "not measured"),
    ],
)
def test_the_suite_passes_when_all_of_it_ran_and_skips_for_weights_alone(summary, outcomes, collected, status, verdict):
    tests = {
        str(number): {"outcome": outcome.partition(":")[0], "said": outcome} for number, outcome in enumerate(outcomes)
    }
    figures = {"collected": collected, "tests": tests} | ({} if status is None else {"exit status": status})
    assert summary.suite_row(figures).verdict == verdict


def test_ways_take_turns_and_rounds_end_with_their_budget():
    timing = script("bench/timing")
    order = []
    tries = {name: lambda name=name: float(order.append(name) or len(order)) for name in "abc"}
    seconds = timing.paired(tries, 4)
    assert "".join(order) == "abcbcacababc"
    assert seconds["a"] == [1.0, 6.0, 8.0, 10.0]
    assert len(timing.paired(tries, 9, least=2, budget=0.0)["a"]) == 2
    few, many = timing.median([1.0] * 5), timing.median([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (few["low"], few["high"]) == (None, None)
    assert (many["low"], many["ratio"], many["high"]) == (1.0, 3.5, 6.0)
