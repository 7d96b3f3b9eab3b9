"""``okr validate``: whether a results.json says what its samples and traces say, or a conformance report holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from okr.commands.options import AsJson, say
from okr.errors import InvalidConfig


def validate_command(
    file: Annotated[Path, typer.Argument(help="A results.json, or a conformance report (okr conform --report).")],
    as_json: AsJson = False,
) -> None:
    """Check a results.json: its form, that its figures follow from its samples, and the traces beside it.

    A conformance report: its form, its digest, that its clauses are the specification's, and its totals.
    """
    said, line = _conformance(file) if _is_conformance(file) else _results(file)
    say({"valid": True, **said}, as_json, line)


def _is_conformance(file: Path) -> bool:
    """Whether a file calls itself a conformance report in its first bytes, however damaged the rest is."""
    try:
        with file.open("rb") as opened:
            return b'"okr-conformance-report"' in opened.read(200)
    except OSError:
        return False  # whoever reads it as a whole says why it cannot be read


def _results(file: Path) -> tuple[dict[str, Any], str]:
    from okr.experiment.results import Results

    found = Results.load(file)
    from okr.experiment.agreement import check_figures, check_traces

    try:
        check_figures(found)
        beside = check_traces(found, file.parent)
    except InvalidConfig as error:
        raise InvalidConfig(f"{file} is not valid: {error}") from None
    missing = "" if beside else "; its traces are not beside it and were not looked at"
    said = {"schema_version": found.schema_version, "traces": "agree" if beside else "not there"}
    return said, f"{file} is valid{missing}"


def _conformance(file: Path) -> tuple[dict[str, Any], str]:
    from okr.spec.report import schema
    from okr.spec.report.screen import levels_text

    try:
        found = schema.read(file.read_bytes())
    except ValueError as error:
        raise InvalidConfig(f"{file} is not valid: {error}") from None
    of = "" if found.current else f" (clauses of another specification, version {found.specification.version})"
    what = f"{found.implementation.name} {found.implementation.version}{of}"
    conforms = {one.level: one.conforms for one in found.results.levels}
    said = {"schema_version": found.schema_version, "current": found.current, "conforms": conforms}
    return said, f"{file} is valid: {what}: {levels_text(found.tallies)}"
