"""Runs the mutants of okr.routing against the clauses, each in a process of its own.

Only a clause that is violated (an assertion) kills a mutant; crashes and hangs are counted apart. A mutant lives on if
every clause about its module passes.
"""

import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spec import vectors
from spec.adapters import load
from spec.adequacy.mutants import Mutant, mutants
from spec.checks import all_checks
from spec.profiles import Profile
from spec.registry import Clause
from spec.runner import Result, chosen, run_clause, run_vectors
from spec.subject import Subject

MODULES = ("okr.routing.keys", "okr.routing.scores", "okr.routing.selection")
ROOMS = {"keys": ("key",), "scores": ("score",), "selection": ("selection", "zone", "ties", "strength", "failopen")}
STAGES = (0, 8, 60)  # cases for each check, 0 for the vectors alone: most mutants die early
LIMIT = 900.0  # seconds for one mutant


def clauses(module: str) -> list[Clause]:
    """The clauses about what the module does; no other pure function calls it."""
    rooms = ROOMS[module.rpartition(".")[2]]
    return sorted((c for c in chosen([]) if c.room in rooms), key=lambda c: rooms.index(c.room))


def run(module: str) -> list[dict[str, Any]]:
    """Each mutant of ``module`` with its fate: killed, crash, timeout or survived, and by which clause."""
    all_checks(), vectors.load(), load("okr")  # once, before the processes part
    source = Path(importlib.import_module(module).__file__ or "").read_text("utf-8")
    found = []
    for mutant in mutants(source):
        fate = _in_child(module, mutant)
        found.append({"module": module, "line": mutant.line, "mutant": mutant.name, **fate})
        print(
            f"{fate['fate']:<9} {fate['clause']:<14} {module.rpartition('.')[2]}:{mutant.line} {mutant.name[:90]}",
            file=sys.stderr,
        )
    return found


def _in_child(module: str, mutant: Mutant) -> dict[str, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(_fate(module, mutant), pipe)
        os._exit(0)
    os.close(writer)
    content = b""
    while select.select([reader], [], [], LIMIT)[0]:
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
    return {"fate": "timeout" if hung else "crash", "clause": "", "what": "the process"}


def _fate(module: str, mutant: Mutant) -> dict[str, str]:
    """Patch the module in place and ask the clauses. Clauses in which the mutant only crashes are remembered."""
    apart = {"fate": "", "clause": "", "what": ""}
    try:
        target = importlib.import_module(module)
        exec(compile(mutant.tree, target.__file__ or module, "exec"), target.__dict__)
        _share(module, target)
        subject = Subject(load("okr"), timeout=60)
        for stage in STAGES:
            for result in _results(subject, module, stage):
                if result.verdict == "fail" and result.failure is not None:
                    return {"fate": "killed", "clause": result.clause.id, "what": result.failure.what[:120]}
                if result.verdict not in ("pass", "not applicable") and not apart["fate"]:
                    fate = "timeout" if result.verdict == "timeout" else "crash"
                    apart = {
                        "fate": fate,
                        "clause": result.clause.id,
                        "what": (result.note or str(result.failure))[:120],
                    }
            if apart["fate"] and stage:
                break
    except Exception as error:
        apart = {"fate": "crash", "clause": "", "what": f"{type(error).__name__}: {error}"[:120]}
    return apart if apart["fate"] else {"fate": "survived", "clause": "", "what": ""}


def _results(subject: Subject, module: str, stage: int) -> Iterator[Result]:
    """Every clause's result, as they come."""
    for clause in clauses(module):
        if stage:
            yield run_clause(subject, clause, Profile("mutation", stage, shrink=False))
        else:
            yield run_vectors(subject, clause)


def _share(module: str, target: Any) -> None:
    """Names that the package re-exports must be the mutated ones."""
    package = importlib.import_module(module.rpartition(".")[0])
    for name in vars(package):
        if hasattr(target, name) and not name.startswith("_"):
            setattr(package, name, getattr(target, name))
