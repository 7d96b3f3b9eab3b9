"""Which lines of the package each question runs, and how long it takes: mutants are asked the cheap ones first."""

import importlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from .. import models
from .mutants import Mutant, functions
from .questions import Cases, Question
from .targets import Target


@dataclass(frozen=True)
class Reached:
    """``seconds`` the question takes, being watched; ``lines`` it runs, by module."""

    seconds: float
    lines: dict[str, frozenset[int]]


Reach = dict[str, Reached]
"""By the question's name."""


def asked(reach: Reach, target: Target, mutant: Mutant, everyone: Sequence[Question]) -> list[Question]:
    """The questions that run what ``mutant`` changes, the cheapest first. Code that was watched nowhere, machine code,
    which cannot be watched, and code that runs on import is asked everything."""
    watched = any(reach[question.name].lines.get(target.module) for question in everyone)
    if watched and mutant.owner in _functions(target.module) and not _is_machine_code(target.module, mutant.owner):
        wanted = set(mutant.lines)
        everyone = [q for q in everyone if wanted & reach[q.name].lines.get(target.module, frozenset())]
    return sorted(everyone, key=lambda question: reach[question.name].seconds)


def _is_machine_code(module: str, owner: str) -> bool:
    """Whether the function ``owner`` of ``module`` is one that numba compiles."""
    return hasattr(getattr(importlib.import_module(module), owner, None), "py_func")


@cache
def _functions(module: str) -> set[str]:
    return functions(Path(importlib.import_module(module).__file__ or "").read_text("utf-8"))


def measured(
    everyone: Iterable[Question], modules: Sequence[str], subject: Any, cases: Cases, kept: Path | None = None
) -> Reach:
    """Ask every question once and watch ``modules``. Answers are kept in the file ``kept``, and taken from there.

    Raises RuntimeError where a question is not answered rightly without any mutant.
    """
    found = _read(kept)
    for question in everyone:
        if question.name in found and set(modules) <= set(found[question.name].lines):
            continue
        found[question.name] = _watched(question, modules, subject, cases)
        if kept is not None:
            entry = found[question.name]
            lines = {module: sorted(numbers) for module, numbers in entry.lines.items()}
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"question": question.name, "seconds": entry.seconds, "lines": lines}) + "\n")
    return found


def _read(kept: Path | None) -> Reach:
    if kept is None or not kept.exists():
        return {}
    entries = map(json.loads, kept.read_text("utf-8").splitlines())
    return {
        entry["question"]: Reached(entry["seconds"], {m: frozenset(numbers) for m, numbers in entry["lines"].items()})
        for entry in entries
    }


def _watched(question: Question, modules: Sequence[str], subject: Any, cases: Cases) -> Reached:
    places = {importlib.import_module(module).__file__: module for module in modules}
    lines: dict[str, set[int]] = {module: set() for module in modules}
    into: dict[CodeType, set[int] | None] = {}

    def note(frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in into:
            module = places.get(code.co_filename)
            into[code] = None if module is None else lines[module]
        numbers = into[code]
        if numbers is None:
            return None
        numbers.add(frame.f_lineno)
        return note

    models.forget()
    start = time.process_time()
    sys.settrace(note)
    try:
        said = question.ask(subject, cases)
    finally:
        sys.settrace(None)
    if said[0] != "pass":
        raise RuntimeError(f"{question.name} does not hold without any mutant: {said}")
    seconds = round(time.process_time() - start, 3)
    return Reached(seconds, {module: frozenset(numbers) for module, numbers in lines.items()})
