"""``okr run`` after its arguments are validated: progress, summary, and how to go on after an interruption."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

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
    try:
        with bars() as progress:
            return run(resolved, resume=resume, progress=progress, processes=processes)
    except KeyboardInterrupt:
        if (Path(resolved.config.output_dir) / JOURNAL).exists():
            print(f"okr: stopped; to continue: {resume_command(resolved)}", file=sys.stderr)
        raise


def resume_command(resolved: Resolved) -> str:
    """The command that continues this run."""
    words = sys.argv[1:]
    if "run" not in words[:1]:
        words = ["run", *words]
    if resolved.sources["output_dir"] == "default":
        words += ["--output-dir", resolved.config.output_dir]
    if "--resume" not in words:
        words += ["--resume"]
    return shlex.join(["okr", *words])
