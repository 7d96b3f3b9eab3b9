"""``okr validate``: whether a results.json says what its samples and traces say."""

from pathlib import Path
from typing import Annotated

import typer

from okr.commands.options import AsJson, say
from okr.errors import InvalidConfig


def validate_command(
    results: Annotated[Path, typer.Argument(help="A results.json.")],
    as_json: AsJson = False,
) -> None:
    """Check a results.json: its form, that its figures follow from its samples, and the traces beside it."""
    from okr.experiment.results import Results

    found = Results.load(results)
    from okr.experiment.agreement import check_figures, check_traces

    try:
        check_figures(found)
        beside = check_traces(found, results.parent)
    except InvalidConfig as error:
        raise InvalidConfig(f"{results} is not valid: {error}") from None
    said = {"valid": True, "schema_version": found.schema_version, "traces": "agree" if beside else "not there"}
    say(
        said,
        as_json,
        f"{results} is valid" + ("" if beside else "; its traces are not beside it and were not looked at"),
    )
