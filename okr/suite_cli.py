"""The suites of ``okr run`` and ``okr report``: options, progress and what is printed."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okr.cli_options import AsJson
from okr.errors import InvalidConfig

if TYPE_CHECKING:
    from okr.evidence.options import SuiteOptions
    from okr.evidence.suites import SuiteResults
    from okr.experiment.config import Resolved

SuiteName = Annotated[str | None, typer.Option("--suite", help="Then measure: quality, attacks, baselines or all.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small suites: fewer, shorter texts and fewer strengths.")]
SuiteSamples = Annotated[int | None, typer.Option(help="Texts of each method in a suite.")]
SuiteTokens = Annotated[int | None, typer.Option(help="New tokens of each text in a suite.")]
SuiteDecoys = Annotated[int | None, typer.Option(help="Decoy keys of a suite's text tests, at most.")]
Judge = Annotated[str | None, typer.Option(help="Model that judges texts: embedded name, preset, folder or hub id.")]
Paraphraser = Annotated[str | None, typer.Option(help="Sequence-to-sequence model that paraphrases, as an attack.")]
Pairs = Annotated[str | None, typer.Option(help='JSONL of human paraphrases: {"a": "...", "b": "..."}.')]
Choices = Annotated[
    str | None, typer.Option(help='JSONL of questions: {"question": "...", "choices": [...], "answer": 0}.')
]
HumanEval = Annotated[
    bool, typer.Option("--human-eval", help="Measure HumanEval pass@1: runs what the model writes, in a sandbox.")
]

SUITE_OPTIONS = (
    "suite", "quick", "suite_samples", "suite_tokens", "suite_decoys", "judge", "paraphraser", "pairs", "choices",
    "human_eval",
)  # fmt: skip


def check_no_suite_options(asked: Mapping[str, object]) -> None:
    """Refuse options of suites where no suite was asked for."""
    given = [name for name, value in asked.items() if value not in (None, False)]
    if given:
        raise InvalidConfig(f"--{given[0].replace('_', '-')} belongs to a suite: add --suite")


def run_with_suites(
    resolved: "Resolved", options: "SuiteOptions", suites: tuple[str, ...], *, resume: bool, as_json: bool
) -> None:
    """The run, then its suites in the same folder, then both in one report."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidConfig("suites run in one process: start --suite without accelerate launch")
    from okr.evidence.report import write_reports
    from okr.evidence.suites import run_suites
    from okr.evidence.watching import watching
    from okr.experiment.command import resumable, resume_options, run_command
    from okr.experiment.folder import JOURNAL, RESULTS
    from okr.experiment.results import Results

    with contextlib.redirect_stdout(io.StringIO() if as_json else sys.stdout):
        run_command(resolved, resume=resume, as_json=as_json)
    folder = Path(resolved.config.output_dir)
    with resumable(folder / JOURNAL, "run", resume_options(resolved)):
        with watching() as watcher:
            found = run_suites(resolved, options, suites, watcher)
        write_reports(folder)
    if as_json:
        summary = Results.load(folder / RESULTS).summary.model_dump(mode="json")
        print(json.dumps({"summary": summary, "suites": found.model_dump(mode="json")}, indent=2))
        return
    print(_closing(found, folder))


def _closing(found: "SuiteResults", folder: Path) -> str:
    done = sum(cell.status == "done" for cell in found.cells)
    lines = [f"suites {', '.join(found.suites)}: {done} results in {folder / 'suites.json'}, {found.seconds:.0f} s"]
    lines += [f"not measured: {cell.name}: {cell.reason}" for cell in found.cells if cell.status != "done"]
    return "\n".join(lines)


def report_command(
    folder: Annotated[Path, typer.Argument(help="The output folder of a run.")],
    other: Annotated[Path | None, typer.Argument(help="Another run's folder: compare the two.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the comparison goes; else comparison.md in OTHER.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make report.html and report.md again from what lies in a folder, or set two runs side by side."""
    if other is None:
        if output is not None or as_json:
            raise InvalidConfig("--output and --json are for the comparison of two folders")
        from okr.evidence.report import write_reports
        from okr.experiment.folder import REPORT

        write_reports(folder)
        print(folder / REPORT)
        return
    from okr.evidence.comparison import compare
    from okr.experiment.folder import write_atomically

    comparison = compare(folder, other)
    write_atomically(output or other / "comparison.md", comparison.markdown())
    print(json.dumps(comparison.as_dict(), indent=2) if as_json else comparison.markdown(), end="\n" if as_json else "")
