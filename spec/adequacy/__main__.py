"""``python -m okr.spec.adequacy [PART...] [--jobs N]`` measures, all parts by default, and rewrites the documents.

Parts: ``zoo`` (broken routers), ``systems`` (broken systems), ``alarms``, and the mutants of okr.routing
(``mutation``), okr.detection (``detection``), okr.traces (``traces``), okr.engines (``attach``) and okr.baking
(``baking``). What became of mutants is kept in ``spec/adequacy/kept/``, and a run that was ended goes on from there;
delete it to start anew. ``report`` measures nothing: it takes what is kept so far of modules all of whose mutants were
looked at, and leaves the figures of the others.

``NAME=IMPLEMENTATION``, as in ``jax=examples/ports/jax_router.py:Router``, measures the false alarms on a port. Ports
are measured only where they are named.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..zoo import members
from ..zoo.systems import systems
from . import alarms, mutation, report, targets
from .questions import drawn, verdict

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "measured.json"
EXPLAINED = HERE / "survivors.json"
DOCUMENTS = HERE.parent.parent / "docs"
HUNT_CASES, KEEP_CASES = 150, 40
ALARM_CASES = 10_000


def zoo(everyone: Sequence[Any], level: str, keep: int = KEEP_CASES) -> list[dict[str, Any]]:
    """Each member, with what came out otherwise than declared."""
    found = []
    clauses = [clause for clause in registry.load().values() if clause.level == level]
    cases = drawn(clauses, HUNT_CASES)
    for member in everyone:
        declared = member.clauses()
        answers = {}
        with member.at_large() as subject:
            for clause in (clause for clause in clauses if clause.id in declared):
                most = HUNT_CASES if declared[clause.id] else keep
                said = verdict(subject(), clause, None)[0]
                answers[clause.id] = verdict(subject(), clause, cases, most)[0] if said == "pass" else said
        killers = sorted(c for c, must_fail in declared.items() if must_fail and member.caught(answers[c]))
        kept = {c for c, must_fail in declared.items() if not must_fail and answers[c] == "pass"}
        surprises = {c: said for c, said in answers.items() if c not in kept and c not in killers}
        found.append({"name": member.name, "bug": member.bug, "killers": killers, "surprises": surprises})
        print(f"zoo {member.name}: {surprises or 'as declared'}", file=sys.stderr)
    return found


def main(parts: Sequence[str], jobs: int = 1) -> None:
    """Measure ``parts``; the others keep the figures of their last run."""
    ports = dict(part.split("=", 1) for part in parts if "=" in part)
    named = [part for part in parts if "=" not in part]
    if unknown := set(named) - {*ALL, "report"}:
        sys.exit(f"there is no part {', '.join(unknown)}; the parts are {', '.join(ALL)}, report, NAME=IMPLEMENTATION")
    for part in named:
        if part in targets.PARTS:
            _put(part, _told(mutation.run(part, targets.PARTS[part], jobs)))
        elif part in OTHERS:
            _put(part, OTHERS[part]())
    for part in targets.PARTS if "report" in named else ():
        found = _told(mutation.kept(part, targets.PARTS[part]))
        _put(part, by_module(_measured().get(part, []), found, [target.module for target in targets.PARTS[part]]))
    if ports:
        others = [entry for entry in _measured().get("ports", []) if entry["implementation"] not in ports]
        _put("ports", sorted(others + alarms.run(ALARM_CASES, ports), key=lambda entry: entry["implementation"]))
    explained = json.loads(EXPLAINED.read_text("utf-8"))
    for place, content in report.documents(_measured(), explained).items():
        (DOCUMENTS / place).write_text(content, "utf-8")


def _told(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what only a run that goes on needs to know."""
    return [{name: value for name, value in entry.items() if name not in ("asked", "by")} for entry in found]


def by_module(
    before: list[dict[str, Any]], found: list[dict[str, Any]], modules: Sequence[str]
) -> list[dict[str, Any]]:
    """What was found in the place of what was known ``before`` of the same modules, in the order of ``modules``."""
    new = {entry["module"] for entry in found}
    entries = [*(entry for entry in before if entry["module"] not in new), *found]
    return sorted((e for e in entries if e["module"] in modules), key=lambda entry: modules.index(entry["module"]))


def _put(part: str, found: list[dict[str, Any]]) -> None:
    MEASURED.write_text(json.dumps({**_measured(), part: found}, indent=1) + "\n", "utf-8")


def _measured() -> dict[str, Any]:
    return dict(json.loads(MEASURED.read_text("utf-8"))) if MEASURED.exists() else {}


OTHERS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "zoo": lambda: zoo(members(), "routing"),
    "systems": lambda: zoo(systems(), "system", KEEP_CASES // 4),
    "alarms": lambda: alarms.run(ALARM_CASES),
}
ALL = (*OTHERS, *targets.PARTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m okr.spec.adequacy", description="Measure the conformance suite.")
    parser.add_argument("parts", nargs="*", help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side that look at mutants")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    main(given.parts or ALL, given.jobs)
