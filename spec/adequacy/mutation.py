"""Runs the mutants of okr.routing and okr.engines against the clauses, each in a process of its own.

Only a clause that is violated (an assertion) kills a mutant; crashes and hangs are counted apart. A mutant lives on if
every clause about its module passes. Sources are never edited: a child process executes the changed tree in place of
the module.
"""

import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

import numba
import torch

from .. import vectors
from ..adapters import load
from ..checks import all_checks
from ..registry import Clause
from ..runner import chosen
from ..subject import Subject
from .mutants import Mutant, functions, mutants
from .questions import Cases, drawn, verdict

_SELECTION = ("selection", "zone", "ties", "strength", "failopen")
_MODEL = ("weight", "trace", "replay", "attach")
UNREACHED = "no clause runs it"
Reach = dict[tuple[str, str], set[str]]


@dataclass(frozen=True)
class Target:
    """A module, the chapters about what it does, the implementation they are asked of, and how hard.

    ``stages``: cases for each check, 0 for the vectors alone; most mutants die early. ``limit``: seconds for a mutant.
    ``one_in``: that share of the mutants is tried, drawn at random with a fixed seed.
    """

    module: str
    chapters: tuple[str, ...]
    implementation: str = "okr"
    stages: tuple[int, ...] = (0, 8, 60)
    limit: float = 900.0
    one_in: int = 1

    @property
    def in_models(self) -> bool:
        """Whether models are needed: the code puts routing into them."""
        return _MODEL[0] in self.chapters

    @property
    def clauses(self) -> list[Clause]:
        """The chapters' clauses, in the order of ``chapters``."""
        return sorted(
            (c for c in chosen([]) if c.chapter in self.chapters), key=lambda c: self.chapters.index(c.chapter)
        )


ROUTING = (
    Target("okr.routing.keys", ("key", "bake")),
    Target("okr.routing.scores", ("score",)),
    Target("okr.routing.settings", ("zone",)),
    Target("okr.routing.selection", (*_SELECTION, "verify")),
    Target("okr.routing.compiled", (*_SELECTION, "weight"), "numba-in-okr", limit=120.0),
)
_ENGINE = (
    "routings",
    "session",
    "replay",
    "attaching",
    "guard",
    "proof",
    "swapping",
    "fused",
    "families",
    "generation",
)
ATTACH = (
    *(
        Target(f"okr.engines.{name}", _MODEL, stages=(60,), one_in=6)
        for name in ("choice", "matching", *(f"transformers.{name}" for name in _ENGINE))
    ),
    Target("okr.engines.transformers.engine", (*_MODEL, "text"), stages=(60,), one_in=6),
)


def run(target: Target, reach: Reach | None = None) -> list[dict[str, Any]]:
    """Each mutant of the module with its fate: killed, crash, timeout or survived, and by which clause.

    With ``reach`` only clauses that call the mutated function are asked; the others cannot notice it.
    """
    torch.set_num_threads(1)  # threads do not survive a fork
    all_checks(), vectors.load(), _subject(target)  # once, before the processes part
    source = Path(importlib.import_module(target.module).__file__ or "").read_text("utf-8")
    cases = {stage: drawn(target.clauses, stage) for stage in target.stages if stage}
    always = {mutant.owner for mutant in mutants(source)} - functions(source)
    found = []
    for mutant in _sample(mutants(source), target.one_in):
        asked = [c for c in target.clauses if reach is None or mutant.owner in always | reach[c.id, target.module]]
        fate = _in_child(target, mutant, cases, asked) if asked else _said("survived", "", UNREACHED)
        found.append({"module": target.module, "line": mutant.line, "mutant": mutant.name, **fate})
        place = f"{target.module.rpartition('.')[2]}:{mutant.line}"
        print(f"{fate['fate']:<9} {fate['clause']:<14} {place} {mutant.name[:90]}", file=sys.stderr)
    return found


def _subject(target: Target) -> Subject:
    name, _, where = target.implementation.partition("-")
    subject = Subject(load(name), timeout=60)
    if not where:
        return subject
    subject.levels = frozenset(("routing", "system"))  # the same code at work in a model
    return subject


def _sample(everyone: list[Mutant], one_in: int) -> list[Mutant]:
    places = range(len(everyone))
    return [everyone[place] for place in sorted(Random(0).sample(places, -(-len(everyone) // one_in)))]


def reach(targets: Sequence[Target]) -> Reach:
    """By clause and module: the functions that are called when the clause is asked, evidence and all.

    The targets have the same stages. Raises RuntimeError where a clause does not hold without any mutant.
    """
    modules = {importlib.import_module(t.module).__file__: t.module for t in targets}
    clauses = {clause.id: clause for target in targets for clause in target.clauses}
    cases, found = drawn(clauses.values(), targets[0].stages[-1]), Reach()
    for clause in clauses.values():
        called = {module: set[str]() for module in modules.values()}

        def note(frame: Any, event: str, argument: Any, called: dict[str, set[str]] = called) -> None:
            module = modules.get(frame.f_code.co_filename)
            if module is not None:
                parts = frame.f_code.co_qualname.replace(".<locals>", "").split(".")
                called[module].add(".".join(takewhile(lambda part: not part.startswith("<"), parts)))

        _forget()
        sys.settrace(note)
        try:
            said = verdict(_subject(targets[0]), clause, cases)
        finally:
            sys.settrace(None)
        if said[0] != "pass":
            raise RuntimeError(f"{clause.id} does not hold without any mutant: {said}")
        found.update({(clause.id, module): names for module, names in called.items()})
    return found


def _forget() -> None:
    from .. import models

    models.forget()


def _said(fate: str, clause: str, what: str) -> dict[str, str]:
    return {"fate": fate, "clause": clause, "what": what}


def _in_child(target: Target, mutant: Mutant, cases: dict[int, Cases], asked: list[Clause]) -> dict[str, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(_fate(target, mutant, cases, asked), pipe)
        os._exit(0)
    os.close(writer)
    content = b""
    while select.select([reader], [], [], target.limit)[0]:
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            break
        content += chunk
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if content:
        return dict(json.loads(content))
    hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return _said("timeout" if hung else "crash", "", "the process")


def _fate(target: Target, mutant: Mutant, cases: dict[int, Cases], asked: list[Clause]) -> dict[str, str]:
    """Patch the module in place and ask the clauses. Clauses in which the mutant only crashes are remembered."""
    apart = _said("", "", "")
    try:
        _patch(target.module, mutant)
        if target.in_models:
            _forget()  # what was made without the mutant
        subject = _subject(target)
        for stage in target.stages:
            for clause in asked:
                said, what = verdict(subject, clause, cases.get(stage))
                if said == "fail":
                    return _said("killed", clause.id, what)
                if said != "pass" and not apart["fate"]:
                    apart = _said("timeout" if said == "timeout" else "crash", clause.id, what)
            if apart["fate"] and stage:
                break
    except Exception as error:
        apart = _said("crash", "", f"{type(error).__name__}: {error}"[:120])
    return apart if apart["fate"] else _said("survived", "", "")


def _patch(name: str, mutant: Mutant) -> None:
    """Execute the mutant in its module; whoever imported one of its names gets the new one."""
    module = importlib.import_module(name)
    before = dict(vars(module))
    numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]  # the loops run as Python: no machine code is kept
    exec(compile(mutant.tree, module.__file__ or name, "exec"), vars(module))
    holders = [m for place, m in [*sys.modules.items()] if place.partition(".")[0] == "okr"]
    for holder in holders:
        for key, value in [*vars(holder).items()]:
            if key in before and value is before[key] and not key.startswith("__"):
                setattr(holder, key, vars(module)[key])
