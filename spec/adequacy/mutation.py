"""Runs the mutants of a part's modules against the questions that reach them, each in a process of its own.

Only a clause that is violated (an assertion) kills a mutant; crashes and hangs are counted apart. A mutant lives on if
every question about its module is answered rightly. Sources are never edited: a child process executes the changed tree
in place of the module. A run that was ended goes on where it stopped: fates are kept as they come, and a mutant that
lived on is asked only what it has not been asked yet.
"""

import ast
import importlib
import json
import math
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numba
import torch

from .. import experiment, models, system, vectors
from ..adapters import load
from ..checks import all_checks
from ..subject import Subject
from .mutants import Mutant, mutants
from .questions import Cases, Question, drawn, questions
from .reach import Reach, asked, measured
from .targets import UNREACHED, WATCHED, Target

KEPT = Path(__file__).resolve().parent / "kept"
QUICK = 2.0
"""Seconds that a quick question takes at most, being watched."""

CRASHES = 6
"""A mutant that crashes in so many questions is not asked further ones."""

PATIENCE = 10
"""A process is ended after so many times the limit, if it waits instead of working."""

Fate = dict[str, Any]


class Fates:
    """What became of each mutant, in a file that grows line by line: the last line about a mutant holds."""

    def __init__(self, place: Path) -> None:
        self.place = place
        text = place.read_text("utf-8") if place.exists() else ""
        if text and not text.endswith("\n"):  # a run was ended in the middle of a line
            text = text[: text.rfind("\n") + 1]
            place.write_text(text, "utf-8")
        entries = map(json.loads, text.splitlines())
        self.known = {(entry["module"], entry["mutant"]): entry for entry in entries}

    def keep(self, entry: Fate) -> None:
        self.known[entry["module"], entry["mutant"]] = entry
        with self.place.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def run(part: str, targets: Sequence[Target], jobs: int = 1) -> list[Fate]:
    """The fates of the mutants of ``targets``: killed, crash, timeout or survived, by which clause. ``jobs`` processes
    share them."""
    torch.set_num_threads(1)  # threads do not survive a fork
    KEPT.mkdir(exist_ok=True)
    all_checks(), vectors.load()  # once, before the processes part
    cases, reach = Cases(), Reach()
    for target in targets:
        everyone = questions(target.clauses)
        missing = {q.clause.id: q.clause for q in everyone if q.check is not None and q.check.name not in cases}
        cases |= drawn(missing.values(), target.cases)
        reach |= measured(everyone, WATCHED, _subject(target), cases, KEPT / "reach.jsonl")
    if any(target.keeps for target in targets):
        _make_ready()
    helpers = []
    for number in range(1, jobs):
        helpers.append(os.fork())
        if helpers[-1] == 0:
            _work(part, targets, reach, cases, (number, jobs))
            os._exit(0)
    _work(part, targets, reach, cases, (0, jobs))
    for child in helpers:
        os.waitpid(child, 0)
    return kept(part, targets)


def kept(part: str, targets: Sequence[Target]) -> list[Fate]:
    """What is known of the mutants that the sources have now, in their order: of modules of which all are known."""
    known = Fates(KEPT / f"{part}.jsonl").known
    names = [(target.module, mutant.name) for target, mutant in _everyone(targets)]
    lacking = {module for module, mutant in names if (module, mutant) not in known}
    return [known[name] for name in names if name[0] not in lacking]


def _work(part: str, targets: Sequence[Target], reach: Reach, cases: Cases, share: tuple[int, int]) -> None:
    """The quick questions are put to every mutant first, and the others then to those that live on."""
    fates, (number, jobs) = Fates(KEPT / f"{part}.jsonl"), share
    for most in (QUICK, math.inf):
        for place, (target, mutant) in enumerate(_everyone(targets)):
            if place % jobs == number:
                wanted = asked(reach, target, mutant, questions(target.clauses))
                quick = [question for question in wanted if reach[question.name].seconds <= most]
                if quick or not wanted:
                    _look_at(target, mutant, quick, cases, fates)


def _everyone(targets: Sequence[Target]) -> Iterator[tuple[Target, Mutant]]:
    for target in targets:
        source = Path(importlib.import_module(target.module).__file__ or "").read_text("utf-8")
        yield from ((target, mutant) for mutant in mutants(source))


def _look_at(target: Target, mutant: Mutant, wanted: list[Question], cases: Cases, fates: Fates) -> None:
    """Ask what a mutant has not been asked yet, unless it was killed."""
    before = fates.known.get((target.module, mutant.name), {"fate": "", "asked": []})
    new = [question for question in wanted if question.name not in before["asked"]]
    if before["fate"] == "killed" or (before["fate"] and not new):
        return
    new.sort(key=lambda question: question.name not in _killers(fates, target.module, mutant.owner))
    fate = _in_child(target, mutant, cases, new) if new else _said("survived", "", UNREACHED)
    if fate["fate"] == "survived" and before["fate"] not in ("", "survived"):
        fate = {**before, "asked": fate["asked"]}
    entry = {
        "module": target.module,
        "line": mutant.line,
        "mutant": mutant.name,
        **fate,
        "asked": sorted({*before["asked"], *fate.get("asked", ())}),
    }
    fates.keep(entry)
    place = f"{target.module.rpartition('.')[2]}:{mutant.line}"
    print(f"{entry['fate']:<9} {entry['clause']:<14} {place} {mutant.name[:90]}", file=sys.stderr, flush=True)


def _killers(fates: Fates, module: str, owner: str) -> set[str]:
    """The questions that killed the last mutants of one function."""
    killed = [entry["by"] for entry in fates.known.values() if _is_of(entry, module, owner) and entry.get("by")]
    return set(killed[-3:])


def _is_of(entry: Fate, module: str, owner: str) -> bool:
    return bool(entry["module"] == module and entry["mutant"].startswith(f"{owner}: "))


def _subject(target: Target) -> Subject:
    name, _, where = target.implementation.partition("-")
    subject = Subject(load(name), timeout=60)
    if not where:
        return subject
    subject.levels = frozenset(("routing", "system"))  # the same code at work in a model
    return subject


def _experiment() -> Any:
    return experiment.experiment


def _make_ready() -> None:
    """Make models, traces and texts once, for the processes that may keep them."""
    for index, keyed in product((0, 1, 2), (True, False)):
        system.traces(index, keyed=keyed)
    ways: tuple[dict[str, Any], ...] = ({"zone": "max"}, {"strength": 1.0})
    for index, way in product((0, 1, 2), ways):
        system.traces(index, **way)
    system.capacity_traces(), system.monotone_trace(), system.unlikely_text()
    for index in (0, 1):
        system.texts(index)
    experiment.experiment_model()


def _said(fate: str, clause: str, what: str) -> Fate:
    return {"fate": fate, "clause": clause, "what": what}


def _in_child(target: Target, mutant: Mutant, cases: Cases, wanted: Sequence[Question]) -> Fate:
    """Ask in a process of its own. It writes the name of each question that it has asked, and its last words."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w", buffering=1) as pipe:
            for word in _fate(target, mutant, cases, wanted):
                pipe.write(json.dumps(word) + "\n")
        os._exit(0)
    os.close(writer)
    content = b""
    while select.select([reader], [], [], PATIENCE * target.limit)[0]:
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            break
        content += chunk
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    said = [json.loads(line) for line in content.decode().splitlines()]
    names = [name for name in said if isinstance(name, str)]
    if said and isinstance(said[-1], dict):
        return {**said[-1], "asked": names}
    hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGPROF)
    everything = [question.name for question in wanted]
    return {**_said("timeout" if hung else "crash", "", "the process"), "asked": everything}


def _fate(target: Target, mutant: Mutant, cases: Cases, wanted: Sequence[Question]) -> Iterator[str | Fate]:
    """Patch the module in place and ask. The first crash or hang is remembered, in case no clause is violated."""
    apart, crashes = _said("survived", "", ""), 0
    try:
        _patch(target.module, mutant, target.again)
        if not target.keeps:
            models.forget()  # what was made without the mutant
        _experiment().cache_clear()
        subject = _subject(target)
        for question in wanted:
            signal.setitimer(signal.ITIMER_PROF, target.limit)  # seconds of work; whose time is up is ended
            said, what = question.ask(subject, cases)
            yield question.name
            if said == "fail":
                yield _said("killed", question.clause.id, what) | {"by": question.name}
                return
            if said != "pass":
                crashes += 1
                if apart["fate"] == "survived":
                    apart = _said("timeout" if said == "timeout" else "crash", question.clause.id, what)
                if crashes == CRASHES:
                    break
    except Exception as error:
        apart = _said("crash", "", f"{type(error).__name__}: {error}"[:120])
    yield apart


def _patch(name: str, mutant: Mutant, again: Sequence[str] = ()) -> None:
    """Execute the mutant in its module, and then the modules ``again`` as they are, whose classes hold its classes;
    whoever imported one of their names gets the new one."""
    _execute(name, mutant.tree)
    for other in again:
        source = Path(importlib.import_module(other).__file__ or "").read_text("utf-8")
        _execute(other, ast.parse(source))


def _execute(name: str, tree: ast.Module) -> None:
    module = importlib.import_module(name)
    before = dict(vars(module))
    _without_kept_code(name)
    exec(compile(tree, module.__file__ or name, "exec"), vars(module))
    for place, holder in [(place, m) for place, m in sys.modules.items() if place.partition(".")[0] == "okr"]:
        apart = place.startswith("okr.spec.")  # its numbers are its own, also where they are called the same
        for key, value in [*vars(holder).items()]:
            shared = key in before and value is before[key] and not key.startswith("__")
            if shared and (callable(value) or not apart):
                setattr(holder, key, vars(module)[key])


def _without_kept_code(name: str) -> None:
    """Machine code that is kept would be found again for a mutant. Where the compiler is mutated, loops run as
    Python."""
    from okr.routing import compiled

    if name == compiled.__name__:
        numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]
    compiled.machine_code = lambda function: numba.njit(function, nogil=True, boundscheck=True)
