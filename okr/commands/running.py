"""``okr run`` after its arguments are validated: progress, summary, and how to go on after an interruption."""

import io
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from okr.commands.display import bars, summary_table
from okr.errors import InvalidConfig, OKRError
from okr.experiment.config import Resolved
from okr.experiment.results import Results
from okr.experiment.runner import assist, run
from okr.jobs.processes import Processes, joined
from okr.jobs.store import JOURNAL, KEY, REPORT, RESULTS

if TYPE_CHECKING:
    from okr.suites.options import SuiteOptions
    from okr.suites.runner import SuiteResults


def run_alone(resolved: Resolved, *, resume: bool, as_json: bool) -> None:
    """Run, then print the summary table, or with ``as_json`` the summary as JSON and nothing else on stdout.

    Under ``accelerate launch`` the processes share the run; the main one alone prints.
    """
    with joined() as processes:
        if not processes.main:
            assist(resolved, processes)
            return
        results = _lead(resolved, resume, processes)
    folder = Path(resolved.config.output_dir)
    if as_json:
        print(results.summary.model_dump_json(indent=2))
        return
    console = Console()
    console.print(summary_table(results, folder))
    console.print(f"report: {folder / REPORT}", highlight=False, soft_wrap=True)
    if resolved.config.key is None:
        console.print(f"the secret key of this run: {folder / KEY}", highlight=False, soft_wrap=True)


def _lead(resolved: Resolved, resume: bool, processes: Processes) -> Results:
    kept = Path(resolved.config.output_dir) / JOURNAL
    with resumable(kept, "run", resume_options(resolved)), bars() as progress:
        return run(resolved, resume=resume, progress=progress, processes=processes)


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


def run_with_suites(
    resolved: "Resolved", options: "SuiteOptions", suites: tuple[str, ...], *, resume: bool, as_json: bool
) -> None:
    """The run, then its suites in the same folder, then both in one report."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidConfig("suites run in one process: start --suite without accelerate launch")
    from okr.commands.watching import watching
    from okr.suites.report import write_reports
    from okr.suites.runner import run_suites

    with redirect_stdout(io.StringIO() if as_json else sys.stdout):
        run_alone(resolved, resume=resume, as_json=as_json)
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
