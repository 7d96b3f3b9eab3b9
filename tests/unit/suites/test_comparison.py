"""okr report A B: what differs between two runs, and every figure of both side by side."""

import json
import shutil
from pathlib import Path

import pytest

from okr.cli import execute
from okr.experiment.config import Resolved
from okr.suites.comparison import Line, compare
from okr.suites.figures import Figure
from okr.suites.options import SuiteOptions
from okr.suites.runner import CellResult, SuiteResults


def figure(value: float | None, low: float | None = None, high: float | None = None, **more: object) -> Figure:
    return Figure(measure="found", unit="share", method="kgw", value=value, low=low, high=high, samples=9, **more)


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        (figure(0.5, 0.4, 0.6), figure(0.8, 0.7, 0.9), True),
        (figure(0.8, 0.7, 0.9), figure(0.5, 0.4, 0.6), True),
        (figure(0.5, 0.4, 0.7), figure(0.8, 0.7, 0.9), False),
        (figure(0.5), figure(0.8, 0.7, 0.9), None),
        (None, figure(0.8, 0.7, 0.9), None),
    ],
)
def test_figures_differ_where_their_intervals_are_apart(a: Figure | None, b: Figure | None, apart: bool | None) -> None:
    assert Line("x", "share", a, b).differ is apart


@pytest.fixture
def two(finished_run: Resolved, small: SuiteOptions, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of one run, with suites of different sizes and figures."""
    found = []
    for name, figures in (
        ("a|b", [figure(0.5, 0.4, 0.6, tokens=9, level=0.01), figure(None, tokens=9, level=0.001)]),
        ("other", [figure(0.8, 0.7, 0.9, tokens=9, level=0.01), figure(None, tokens=9, level=0.001)]),
    ):
        folder = tmp_path / name
        shutil.copytree(finished_run.config.output_dir, folder)
        cell = CellResult(name="baselines/x", suite="baselines", status="done", reason="", seconds=1, figures=figures)
        options = small.model_copy(update={"tokens": 10 + len(found)})
        suites = SuiteResults(options=options, suites=["baselines"], seconds=1, cells=[cell])
        (folder / "suites.json").write_text(suites.model_dump_json(), encoding="utf-8")
        found.append(folder)
    return found[0], found[1]


def test_what_differs_is_said_and_nothing_else(two: tuple[Path, Path]) -> None:
    found = compare(*two)
    assert found.settings == (("suite tokens", 10, 11),)
    line = next(line for line in found.lines if line.name == "found, KGW, 9 tokens, FPR 0.01")
    assert (line.a.value, line.b.value, line.differ) == (0.5, 0.8, True)
    assert [line.name for line in found.lines if line.name.startswith("found, ")] == [line.name]
    run = [line for line in found.lines if line.name.startswith("run: ")]
    assert len(run) == 6
    assert all(line.a == line.b for line in run)


def test_the_command_writes_markdown_and_prints_json(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = map(str, two)
    assert execute(["report", first, second]) == 0
    printed = capsys.readouterr().out
    assert printed == (two[1] / "comparison.md").read_text(encoding="utf-8")
    table = [line for line in printed.splitlines() if line.startswith("| found, KGW")]
    assert table == [
        "| found, KGW, 9 tokens, FPR 0.01 | 0.5000 (0.4000 to 0.6000) | 0.8000 (0.7000 to 0.9000) | share | apart |"
    ]
    assert "a\\|b" in printed
    assert execute(["report", first, second, "--json", "--output", str(tmp_path / "x.md")]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == [{"name": "suite tokens", "a": 10, "b": 11}]
    assert (tmp_path / "x.md").exists()


@pytest.mark.parametrize("words", [["--json"], ["--output", "x.md"]])
def test_options_of_the_comparison_need_a_second_folder(
    words: list[str], finished_run: Resolved, capsys: pytest.CaptureFixture
) -> None:
    assert execute(["report", finished_run.config.output_dir, *words]) == 2
    assert "two folders" in capsys.readouterr().err


def test_a_folder_without_results_is_one_line(two: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    (two[1] / "results.json").unlink()
    assert execute(["report", str(two[0]), str(two[1])]) == 2
    assert capsys.readouterr().err.count("\n") == 1
