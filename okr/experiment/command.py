"""``okr run`` after its arguments are validated: progress, summary, and how to go on after an interruption."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from okr.errors import OKRError
from okr.experiment.config import Resolved
from okr.experiment.display import bars, summary_table
from okr.experiment.folder import JOURNAL, KEY, REPORT
from okr.experiment.processes import Processes, joined
from okr.experiment.results import Results
from okr.experiment.runner import assist, run


def run_command(resolved: Resolved, *, resume: bool, as_json: bool) -> None:
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
