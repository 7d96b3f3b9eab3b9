"""The files that ``okr verify`` and ``okr attribute`` take: traces, and a serving engine's responses as JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from okr.commands.findings import Refusals, sift
from okr.errors import InvalidTrace

if TYPE_CHECKING:
    from torch import nn

    from okr.engines import Engine
    from okr.traces import Trace

MAX_RESPONSE_BYTES = 2**30

Read = tuple[str, "Trace | tuple[dict[str, Any], int]"]
"""A name, and a trace or a response with the number of one of its answers."""


def read_traces(paths: Iterable[Path], refused: Refusals) -> list[Read]:
    """What the files hold, each answer of a response by itself. ``refused`` gets the files that hold neither."""
    found: list[Read] = []
    for name, given in sift([(str(path), path) for path in paths], _read, refused, names_it=True):
        if not isinstance(given, dict):
            found.append((name, given))
            continue
        choices = given.get("choices")
        count = len(choices) if isinstance(choices, list) and choices else 1
        found += [(name if count == 1 else f"{name}[{choice}]", (given, choice)) for choice in range(count)]
    return found


def _read(path: Path) -> "Trace | dict[str, Any]":
    from okr.traces import Trace

    try:
        with path.open("rb") as file:
            start = file.read(64)
            is_response = start.lstrip()[:1] == b"{" and b"\0" not in start  # a trace begins with its header's size
    except (OSError, ValueError):
        is_response = False
    return _response(path) if is_response else Trace.load(path)  # which says what is wrong with the file


def _response(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_RESPONSE_BYTES:
            raise InvalidTrace(f"{path}: larger than {MAX_RESPONSE_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise InvalidTrace(f"{path}: neither a trace nor the JSON of a response") from None
    if not isinstance(document, dict):
        raise InvalidTrace(f"{path}: neither a trace nor the JSON of a response")
    return document


def as_trace(
    given: "Trace | tuple[dict[str, Any], int]", engine: "Engine", model: "nn.Module", numbers: dict[str, Any]
) -> "Trace":
    """``given`` as a trace of ``model``, which ``engine`` runs. ``numbers`` are epsilon, zone and strength, where the
    command was given them."""
    from okr.traces import Trace

    if isinstance(given, Trace):
        return given
    response, choice = given
    told = {name: value for name, value in numbers.items() if value is not None}
    return Trace.from_response(response, model=model, choice=choice, identity=engine.identity(), **told)
