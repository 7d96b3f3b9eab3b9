"""What ``okr conform`` does."""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from okr.files import replace

from . import registry
from .processes import Named, results
from .profiles import PROFILES
from .report import Report, failure_text, summary_text
from .report.files import badge, html, junit
from .report.publication import Signed, Statement, command, complete, conformance_report
from .report.summary import BROKEN, SUITE, USAGE, announce, read_known
from .runner import chosen
from .verdicts import BadImplementation, UsageError

PIPE = Path("-")
_WRITERS = {"json": Report.to_json, "junit": junit, "html": html, "badge": badge}


@dataclass(frozen=True)
class Request:
    """What to judge, by which clauses, how hard, and where to write; ``jobs`` processes side by side.

    ``statement`` is what the conformance report, the output ``report``, says of the implementation.
    """

    implementation: str
    clauses: tuple[str, ...] = ()
    profile: str = "ci"
    outputs: dict[str, Path] | None = None
    known_failures: Path | None = None
    timeout: float = 20.0
    jobs: int = 1
    statement: Statement = field(default_factory=Statement)


def run(request: Request) -> int:
    """Judge, print, write; the exit code. Where a report goes to standard output, all else goes to standard error."""
    paths = list((request.outputs or {}).values())
    try:
        _check(paths)
        with redirect_stdout(sys.stderr) if PIPE in paths else nullcontext():
            signed = _signed(request)
            report = judge(request)
            print(summary_text(report))
        for kind, path in (request.outputs or {}).items():
            if kind != "report":
                _write(path, _WRITERS[kind](report))
            elif signed is not None and report.exit_code != SUITE:
                _write(path, conformance_report(report, signed, _reproduce(request)))
    except UsageError as error:
        print(f"okr conform: {error}", file=sys.stderr)
        return USAGE
    except BadImplementation as error:
        print(f"okr conform: the adapter is broken: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        raise KeyboardInterrupt("conform stopped; no report is written and nothing is said about the rest") from None
    except Exception:
        traceback.print_exc()
        print("okr conform: the suite itself failed; this says nothing about the implementation", file=sys.stderr)
        return SUITE
    return report.exit_code


def judge(request: Request) -> Report:
    """The report; failures are printed as they come, and on a terminal a bar on stderr tells how far it is."""
    if request.profile not in PROFILES:
        raise UsageError(f"there is no profile {request.profile!r}; use {', '.join(PROFILES)}")
    clauses = chosen(request.clauses)
    known = read_known(request.known_failures) if request.known_failures else {}
    announce([], known, set(registry.load()))
    found = []
    named = Named(request.implementation, request.timeout)
    with _progress() as bar:
        task = bar.add_task("clauses", total=len(clauses))
        for result in results(named, clauses, PROFILES[request.profile], request.jobs):
            announce([result], known, set(registry.load()))
            found.append(result)
            bar.advance(task)
            if result.failed:
                bar.stop()  # off the screen while something else is printed
                print(failure_text(result, request.implementation), end="\n\n", flush=True)
                bar.start()
    return Report(request.implementation, request.profile, found)


def _signed(request: Request) -> Signed | None:
    """Before minutes of judging: whether all is there that a conformance report needs, if one is asked for."""
    if "report" not in (request.outputs or {}):
        if request.statement.said:
            raise UsageError(f"{request.statement.said[0]} is for --report")
        return None
    if request.clauses:
        raise UsageError("a conformance report speaks of all clauses: name none")
    return complete(request.statement, request.implementation)


def _reproduce(request: Request) -> str:
    return command(
        request.implementation, request.profile, timeout=request.timeout, known_failures=request.known_failures
    )


def _progress() -> Progress:
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns,
        console=screen,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not screen.is_terminal,
    )


def _check(paths: Sequence[Path]) -> None:
    """Before minutes of judging: whether reports can be written there."""
    if paths.count(PIPE) > 1:
        raise UsageError("only one report can go to standard output (-)")
    for path in (path for path in paths if path != PIPE):
        if not path.parent.is_dir() or path.is_dir():
            raise UsageError(f"cannot write {path}: {'it is a folder' if path.is_dir() else 'there is no such folder'}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"cannot write {path}: no permission")


def _write(path: Path, content: str) -> None:
    if path == PIPE:
        print(content, end="" if content.endswith("\n") else "\n")
        return
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which cannot be replaced
            path.write_text(content, "utf-8")
        else:
            replace(path.resolve(), content.encode("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
