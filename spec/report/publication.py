"""A conformance report made of a finished run: who answers for the implementation, on what it ran, how to repeat it."""

import json
import platform
import re
import shlex
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from okr.validation import Problem, first_problem
from okr.version import __version__

from .. import registry, vectors
from ..adapters import SHIPPED
from ..levels import tallies
from ..processes import Named, attributes
from ..verdicts import UsageError
from . import schema
from .summary import Report

_OPTIONS = ("name", "version", "url", "contact")
_FOLDERS = re.compile(
    r"""(?:^|(?<=[=:'",]))(?:(?:~[\w-]*|[A-Za-z]:)?[/\\]|\.\.[/\\])(?:[^/\\:'",=]+[/\\])*(?=[^/\\])"""
)
"""The folders of an absolute path, and those above the present one, in one word of a command line."""


@dataclass(frozen=True)
class Statement:
    """What the person who publishes a report says; None: the implementation's own attribute of that name."""

    name: str | None = None
    version: str | None = None
    url: str | None = None
    contact: str | None = None
    signed_off_by: str | None = None

    @property
    def said(self) -> list[str]:
        """The options that were given."""
        return [_option(field.name) for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True)
class Signed:
    """A statement that is complete and well formed."""

    implementation: schema.Implementation
    signed_off_by: str


def complete(statement: Statement, implementation: str) -> Signed:
    """The statement with what the implementation says of itself.

    Raises UsageError for the first thing that is missing or malformed, and BadImplementation where the implementation
    has to be asked and cannot be loaded.
    """
    given = {name: value for name, value in asdict(statement).items() if value is not None}
    if "signed_off_by" not in given:
        raise UsageError('a conformance report is signed off: add --signed-off-by "Your Name <you@example.org>"')
    signature = given.pop("signed_off_by")
    try:
        TypeAdapter(schema.Signature).validate_python(signature)
    except ValidationError:
        raise UsageError(f'--signed-off-by {str(signature)[:80]!r} does not read "Name <mail>"') from None
    if len(given) < len(_OPTIONS):
        given = {**_of_itself(implementation), **given}
    try:
        return Signed(schema.Implementation(**given), signature)
    except ValidationError as error:
        raise UsageError(_wrong(first_problem(error))) from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _wrong(problem: Problem) -> str:
    option = _option(problem.field)
    if problem.kind == "missing":
        return f"a conformance report says the {problem.field} of the implementation: add {option}"
    return f"{option} {str(problem.given)[:80]!r} cannot stand in a conformance report: {problem.plain}"


def _of_itself(implementation: str) -> dict[str, str]:
    """The attributes of a router object; of what ships, what this package says. A program has none."""
    if implementation in SHIPPED:
        module = SHIPPED[implementation].partition(":")[0]
        place = "okr" if implementation == "okr" else module.removeprefix("okr.").replace(".", "/") + ".py"
        name = implementation if implementation == "okr" else f"okr {implementation}"
        return {"name": name, "version": __version__, "url": place, "contact": "an issue of this repository"}
    if implementation.startswith(("cmd:", "vectors:")):
        return {}
    return attributes(Named(implementation, timeout=20.0), _OPTIONS)


def without_folders(implementation: str) -> str:
    """The name of an implementation with each absolute path, and each that leads out of the present folder, cut to the
    file's name."""
    if not implementation.startswith("cmd:"):
        return _FOLDERS.sub("", implementation)
    words_of_it = shlex.split(implementation.removeprefix("cmd:"))
    return "cmd:" + shlex.join(_FOLDERS.sub("", word) for word in words_of_it)


def command(implementation: str, profile: str, *, timeout: float, known_failures: Path | None) -> str:
    """The command line that gives the same results, as another machine understands it."""
    parts = ["okr", "conform", without_folders(implementation), "--profile", profile]
    parts += ["--timeout", f"{timeout:g}"] if timeout != 20.0 else []
    parts += ["--known-failures", known_failures.name] if known_failures is not None else []
    return shlex.join(parts)


def vectors_digest() -> str:
    """SHA-256 over the files of the static vectors, in the order of their names, as hexadecimal digits."""
    return sha256(b"".join(path.read_bytes() for path in vectors.files())).hexdigest()


def conformance_report(report: Report, signed: Signed, reproduce: str) -> str:
    """The text of the file. Raises UsageError where nothing can be reported: clauses are left out, the suite failed, or
    the text of an option is too long."""
    content = {
        "format": schema.FORMAT,
        "schema_version": schema.SCHEMA_VERSION,
        "implementation": signed.implementation.model_dump(),
        "specification": {
            "version": registry.VERSION,
            "clauses": registry.ids_digest(),
            "vectors": vectors_digest(),
        },
        "suite": __version__,
        "profile": report.profile,
        "platform": _platform(),
        "date": datetime.now(UTC).date().isoformat(),
        "results": _results(report),
        "reproduce": reproduce,
        "signed_off_by": signed.signed_off_by,
    }
    text = json.dumps({**content, "digest": schema.digest_of(content)}, indent=1, ensure_ascii=False) + "\n"
    try:
        schema.read(text.encode("utf-8"))
    except ValueError as error:
        raise UsageError(f"no conformance report is written: {error}") from None
    return text


def _platform() -> dict[str, str]:
    return {
        "os": platform.system() or "unknown",
        "architecture": platform.machine() or "unknown",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _results(report: Report) -> dict[str, Any]:
    entries = []
    for result in report.results:
        entry: dict[str, Any] = {"id": result.clause.id, "verdict": result.verdict, "cases": result.cases}
        if result.known and result.verdict not in ("pass", "not applicable"):
            entry["known_failure"] = " ".join(result.known.split())
        entries.append(entry)
    found = tallies({result.clause.id: result.verdict for result in report.results}, registry.load().values())
    return {"clauses": entries, "levels": [schema.LevelResult.of(tally).model_dump() for tally in found]}
