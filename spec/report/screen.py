"""For the reader at a terminal."""

import shlex
import textwrap
from collections.abc import Sequence

from ..levels import Tally
from ..runner import Result
from .reproduction import reproduction
from .summary import CONFORMS, Report

WIDTH = 110


def failure_text(result: Result, implementation: str) -> str:
    """One failure: clause, input, expected, got, the usual bug, and how to see it again."""
    failure = result.failure
    assert failure is not None
    known = f"  KNOWN: {result.known}" if result.known else ""
    lines = [
        f"{result.clause.id}  {result.verdict.upper()}  ({failure.check}){known}",
        *_wrapped("clause", f"{result.clause.keyword}: {result.clause.statement}"),
        *_wrapped("found", failure.what),
    ]
    lines += _wrapped("expected", failure.expected) if failure.expected else []
    lines += _wrapped("got", failure.got) if failure.got else []
    lines += _wrapped("often", result.clause.bug)
    if failure.call is not None:
        lines += ["  reproduce", *textwrap.indent(reproduction(failure.call, implementation), "    ").splitlines()]
    lines += [f"  again     okr conform {shlex.quote(implementation)} {result.clause.id}"]
    return "\n".join(lines[:40])


def _wrapped(label: str, text: str) -> list[str]:
    text = text if len(text) <= 600 else text[:600] + " ..."
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {label:<10}", subsequent_indent=" " * 12)


def levels_text(levels: Sequence[Tally]) -> str:
    """How an implementation stands to each level, on one line."""
    said = [str(tally) for tally in levels if tally.applies]
    others = [tally.level for tally in levels if not tally.applies]
    return "; ".join([*said, *([f"{', '.join(others)}: not applicable"] if others else [])])


def summary_text(report: Report) -> str:
    """The last lines: per chapter, then the verdict."""
    chapters: dict[str, list[Result]] = {}
    for result in report.results:
        chapters.setdefault(result.clause.title, []).append(result)
    lines = []
    for title, results in chapters.items():
        applicable = [r for r in results if r.verdict != "not applicable"]
        passed = sum(r.verdict == "pass" for r in applicable)
        others = [f"{r.clause.id} {r.verdict}" for r in applicable if r.verdict != "pass"]
        count = f"{passed}/{len(applicable)}" if applicable else "-"
        lines.append(f"{title:<28} {count:>7}  {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}")
    for result in report.results:
        if result.verdict in ("unsupported", "suite error"):
            lines.append(f"{result.clause.id}  {result.verdict}: {result.note}")
    for result in report.surprising:
        lines.append(f"{result.clause.id}  passes, but is listed as a known failure; take it off the list")
    lines.append(levels_text(report.levels))
    known = sum(bool(r.known) and r.failed for r in report.results)
    verdict = "conforms" if report.exit_code == CONFORMS else "does not conform"
    if known and report.exit_code == CONFORMS:
        verdict = f"does not conform, as expected ({known} known failures)"
    lines.append(
        f"{report.implementation}: {verdict}; {report.passed} of {len(report.applicable)} applicable clauses pass "
        f"(profile {report.profile}, {sum(r.cases for r in report.results)} cases)"
    )
    return "\n".join(lines)
