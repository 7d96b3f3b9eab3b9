"""``okr run`` after its arguments are validated: progress, summary, and how to go on after an interruption."""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from okr.commands.display import bars, summary_table
from okr.errors import OKRError
from okr.experiment.config import Resolved
from okr.experiment.layout import KEY, REPORT, TASKS
from okr.experiment.results import Results
from okr.experiment.runner import prepare, run
from okr.jobs.processes import joined
from okr.jobs.progress import SILENT, Progress
from okr.jobs.store import PLAN

if TYPE_CHECKING:
    from okr.suites.options import SuiteOptions
    from okr.suites.runner import SuiteResults


@dataclass(frozen=True)
class Asked:
    """Suites that a command asks for after the run."""

    options: "SuiteOptions"
    suites: Sequence[str]


def execute_run(resolved: Resolved, *, resume: bool, as_json: bool, asked: Asked | None = None) -> None:
    """The run, then what suites are ``asked`` for in the same folder. Prints the outcome, or with ``as_json`` a JSON
    document and nothing else on stdout.

    Under ``accelerate launch`` the processes share the work; the main one alone prints.
    """
    folder = Path(resolved.config.output_dir)
    with joined() as processes, resumable(folder / TASKS / PLAN, "run", resume_options(resolved)):
        prepared = cache(partial(prepare, resolved, processes))
        with shown(processes.main) as progress:
            results = run(resolved, resume=resume, progress=progress, processes=processes, prepared=prepared)
        if results is not None and not as_json:
            _tell(results, resolved)
        found = None
        if asked is not None:
            from okr.suites.report import write_reports
            from okr.suites.runner import run_suites

            with shown(processes.main) as progress:
                found = run_suites(resolved, asked.options, asked.suites, progress, processes, ready=prepared())
            if found is not None:
                write_reports(folder)
    if results is None:
        return
    if as_json:
        print(_document(results, found))
    elif found is not None:
        print(_closing(found, folder))


@contextmanager
def shown(visible: bool) -> Iterator[Progress]:
    """Progress bars for the length of a block, or none."""
    if visible:
        with bars() as progress:
            yield progress
    else:
        yield SILENT


def _tell(results: Results, resolved: Resolved) -> None:
    """The summary table, and where report and key are."""
    console, folder = Console(), Path(resolved.config.output_dir)
    console.print(summary_table(results, folder))
    console.print(f"report: {folder / REPORT}", highlight=False, soft_wrap=True)
    if resolved.config.key is None:
        console.print(f"the secret key of this run: {folder / KEY}", highlight=False, soft_wrap=True)


def _document(results: Results, suites: "SuiteResults | None") -> str:
    if suites is None:
        return results.summary.model_dump_json(indent=2)
    parts = {"summary": results.summary.model_dump(mode="json"), "suites": suites.model_dump(mode="json")}
    return json.dumps(parts, indent=2)


def resume_options(resolved: Resolved) -> list[str]:
    """What the command that continues a run needs beside --resume: the folder, where the user named none."""
    return ["--output-dir", resolved.config.output_dir] if resolved.sources["output_dir"] == "default" else []


@contextmanager
def resumable(kept: Path, name: str, options: Sequence[str] = ()) -> Iterator[None]:
    """Name the command that goes on, where ``okr NAME`` is interrupted or cannot write once ``kept`` is there.

    Ctrl-C then is a KeyboardInterrupt that says so.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*([f"stopped; to continue: {_again(name, options)}"] * kept.exists())) from None
    except OKRError as error:
        if isinstance(error.__cause__, OSError) and kept.exists():
            error.args = (f"{error}; what is finished is kept, to continue: {_again(name, options)}",)
        raise


def _again(name: str, options: Sequence[str]) -> str:
    words = sys.argv[1:]
    if name not in words[:1]:  # python -m okr.run
        words = [name, *words]
    return shlex.join(["okr", *words, *options, *(() if "--resume" in words else ("--resume",))])


def _closing(found: "SuiteResults", folder: Path) -> str:
    done = sum(cell.status == "done" for cell in found.cells)
    lines = [f"suites {', '.join(found.suites)}: {done} results in {folder / 'suites.json'}, {found.seconds:.0f} s"]
    lines += [f"not measured: {cell.name}: {cell.reason}" for cell in found.cells if cell.status != "done"]
    return "\n".join(lines)
