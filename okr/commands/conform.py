"""``okr conform``: judge an implementation of the routing algorithm by the specification."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Stated = Annotated[
    str | None, typer.Option(help="For --report, of the implementation. Default: its attribute of that name.")
]
Output = Annotated[Path | None, typer.Option(dir_okay=False, help="Write the report here; - is standard output.")]


def conform_command(
    implementation: Annotated[
        str,
        typer.Argument(
            metavar="IMPL",
            help="module:object, file.py:object, cmd:PROGRAM, vectors:ANSWERS.json, or what ships: numpy, okr, ...",
        ),
    ],
    clauses: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CLAUSE]...", help="Clause ids or prefixes, such as OKR-TIE. Default: all."),
    ] = None,
    profile: Annotated[str, typer.Option(help="How hard to look: smoke, ci or thorough.")] = "ci",
    json: Output = None,
    junit: Output = None,
    html: Output = None,
    badge: Output = None,
    known_failures: Annotated[
        Path | None, typer.Option(help="Clauses expected to fail, one a line with the reason; strict both ways.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds that one call may take.")] = 20.0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes side by side. Default: 2, and 1 for cmd: and vectors:.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a conformance report for publication here.")
    ] = None,
    signed_off_by: Annotated[
        str | None, typer.Option(help='For --report: "Name <mail>", who says that the report is true.')
    ] = None,
    name: Stated = None,
    version: Stated = None,
    url: Stated = None,
    contact: Stated = None,
) -> None:
    """Judge an implementation by the specification.

    Exit codes: 0 it conforms, 1 it does not, 2 wrong usage, 3 the adapter is broken (cannot be loaded, or fails the
    first simple call), 4 the suite itself failed.
    """
    from okr.spec.command import Request, run
    from okr.spec.processes import usual_jobs
    from okr.spec.report.publication import Statement

    outputs = {"report": report, "json": json, "junit": junit, "html": html, "badge": badge}
    wanted = {name: path for name, path in outputs.items() if path is not None}
    jobs = jobs or usual_jobs(implementation)
    said = Statement(name, version, url, contact, signed_off_by)
    request = Request(implementation, tuple(clauses or ()), profile, wanted, known_failures, timeout, jobs, said)
    raise typer.Exit(run(request))


if __name__ == "__main__":
    from okr.entry import main

    main(["conform", *sys.argv[1:]])
