"""``okr report``: the pages of a run made again, or two runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from okr.commands.options import AsJson
from okr.errors import InvalidConfig


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
        from okr.experiment.layout import REPORT
        from okr.suites.report import write_reports

        write_reports(folder)
        print(folder / REPORT)
        return
    from okr.jobs.folders import write_atomically
    from okr.suites.comparison import compare

    comparison = compare(folder, other)
    write_atomically(output or other / "comparison.md", comparison.markdown())
    print(json.dumps(comparison.as_dict(), indent=2) if as_json else comparison.markdown(), end="\n" if as_json else "")
