"""One command runs every suite on each embedded model, and its report opens in a real browser."""

import json
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, opened
from matplotlib.figure import Figure

from okr.cli import execute
from okr.suites import options, paraphrase, plots, quality
from okr.suites.runner import SuiteResults

UNITS = re.compile(r"nats per token|\(share\)|share (of texts )?found|new tokens|register of the text|and its strength")
PLOTS = {"power", "cost", "attacks", "changes", "registers"}
README = Path(__file__).resolve().parents[2] / "README.md"
SIZE = ["--samples", "2", "--max-length", "16", "--suite-samples", "2", "--suite-tokens", "16",
        "--suite-decoys", "99"]  # fmt: skip
QUESTION = {"question": "It was the best of", "choices": ["times", "xylophones"], "answer": 0}


@pytest.mark.parametrize("preset", ["tiny", "tiny-switch"])
def test_one_command_measures_everything(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's command, made short; with a paraphraser and questions. Costs can be matched where there are some."""
    command = re.search(
        r"^okr run tiny (?:--setting loud )?(--suite all --quick)", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    (tmp_path / "questions.jsonl").write_text(f"{json.dumps(QUESTION)}\n", encoding="utf-8")
    words = ["--paraphraser", "tiny-switch", "--choices", str(tmp_path / "questions.jsonl")]
    few_passages(monkeypatch)
    folder = tmp_path / "out"
    assert (
        execute(["run", preset, "--setting", "loud", *command[1].split(), "--output-dir", str(folder), *SIZE, *words])
        == 0
    )
    suites = SuiteResults.load(folder / "suites.json")
    every_cell_is_done(suites)
    every_axis_is_labelled_with_its_unit(suites, monkeypatch)
    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    every_table_has_a_caption_and_both_reports_say_the_same(page, text)
    if CHROMIUM is None:
        pytest.skip("all but the browser's part passed: install chromium")
    the_report_opens(page, tmp_path)


def few_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs and correlations on few texts, attacks tested with few decoys, all in one thread, as workers of the test
    run share the cores."""
    monkeypatch.setenv("OKR_THREADS", "1")
    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "4")
    monkeypatch.setitem(options.QUICK, "passages", 2)
    monkeypatch.setitem(options.QUICK, "attacked_decoys", 19)
    monkeypatch.setitem(quality.PER_REGISTER, True, 2)
    canaries = quality.canaries()[:8]
    monkeypatch.setattr(quality, "canaries", lambda: canaries)
    monkeypatch.setitem(paraphrase.PAIRS, True, 3)
    monkeypatch.setitem(paraphrase.KEYS, True, 8)


def every_cell_is_done(found: SuiteResults) -> None:
    assert {cell.name: cell.reason for cell in found.cells if cell.status != "done"} == {}
    assert {cell.suite for cell in found.cells} == {"baselines", "quality", "attacks"}
    for cell in found.cells:
        for figure in cell.figures:
            assert figure.unit
            assert (figure.low is None) == (figure.value is None)
            assert figure.value is None or figure.low <= figure.value <= figure.high


def the_report_opens(page: str, folder: Path) -> None:
    seen, console = opened(page, folder)
    assert seen["loaded"] == []
    assert console == []
    assert len(seen["figures"]) == 7 + len(PLOTS)
    assert all(width > 300 for width in seen["figures"])
    assert all(seen["captions"])
    assert seen["wide"] <= 1200


def every_axis_is_labelled_with_its_unit(found: SuiteResults, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "svg", lambda figure: drawn.append(figure) or "")
    assert set(plots.suite_plots(found)) == PLOTS
    for axes in (axes for figure in drawn for axes in figure.axes if axes.get_visible()):
        assert UNITS.search(axes.get_xlabel()), axes.get_xlabel()
        if axes.get_subplotspec().is_first_col():
            assert UNITS.search(axes.get_ylabel()), axes.get_ylabel()


def every_table_has_a_caption_and_both_reports_say_the_same(page: str, text: str) -> None:
    suites = page[page.index("Beside other watermarks") :]
    titles = re.findall(r"<h3>(.*?)</h3>\n<p class=\"soft\">(.+?)</p>", suites, re.DOTALL)
    assert len(titles) == suites.count("<h3>") >= 9
    for title, caption in titles:
        assert f"### {title}" in text
        assert re.search("interval|Share of unmarked texts", caption), caption
    numbers = re.findall(r"<td>([\d.-]+) <span class=\"ends\">(.*?)</span>", suites)
    assert len(numbers) > 100
    for value, ends in numbers:
        assert f"| {value} {ends} |" in text
