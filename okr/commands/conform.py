"""``okr conform``: judge an implementation of the routing algorithm by the specification."""

import sys
from pathlib import Path
from typing import Annotated

import typer

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
        int | None, typer.Option(min=1, help="Processes side by side. Default: 2 for what ships, 1 for yours.")
    ] = None,
) -> None:
    """Judge an implementation by the specification.

    Exit codes: 0 it conforms, 1 it does not, 2 wrong usage, 3 the adapter is broken (cannot be loaded, or fails the
    first simple call), 4 the suite itself failed.
    """
    from okr.spec.command import Request, run
    from okr.spec.processes import usual_jobs

    outputs = {"json": json, "junit": junit, "html": html, "badge": badge}
    wanted = {name: path for name, path in outputs.items() if path is not None}
    jobs = jobs or usual_jobs(implementation)
    request = Request(implementation, tuple(clauses or ()), profile, wanted, known_failures, timeout, jobs)
    raise typer.Exit(run(request))


if __name__ == "__main__":
    from okr.entry import main

    main(["conform", *sys.argv[1:]])
