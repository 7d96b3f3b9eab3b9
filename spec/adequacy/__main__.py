"""``python -m okr.spec.adequacy [PART...]`` measures, all parts by default, and rewrites docs/adequacy.md.

Parts: ``zoo`` (broken routers), ``systems`` (broken systems), ``mutation`` (of okr.routing), ``attach`` (mutants of
okr.engines), ``alarms``, and ``NAME=IMPLEMENTATION`` for the false alarms on a port, as in
``jax=examples/ports/jax_router.py:Router``. Ports are measured only where they are named.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..zoo import members
from ..zoo.systems import systems
from . import alarms, mutation, report
from .questions import drawn, verdict

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "measured.json"
EXPLAINED = HERE / "survivors.json"
DOCUMENT = HERE.parent.parent / "docs" / "adequacy.md"
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


def attach(reach: mutation.Reach) -> list[dict[str, Any]]:
    """The fates of mutants of okr.engines."""
    return [entry for target in mutation.ATTACH for entry in mutation.run(target, reach)]


def main(parts: list[str]) -> None:
    """Measure ``parts``; the others keep the figures of their last run."""
    ports = dict(part.split("=", 1) for part in parts if "=" in part)
    named = [part for part in parts if "=" not in part]
    unknown = set(named) - set(PARTS)
    if unknown:
        sys.exit(f"there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}, and NAME=IMPLEMENTATION")
    for part in named if parts else PARTS:
        _keep(part, PARTS[part]())
    if ports:
        others = [entry for entry in _measured().get("ports", []) if entry["implementation"] not in ports]
        _keep("ports", sorted(others + alarms.run(ALARM_CASES, ports), key=lambda entry: entry["implementation"]))
    explained = json.loads(EXPLAINED.read_text("utf-8"))
    DOCUMENT.write_text(report.render(_measured(), explained), "utf-8")


def _keep(part: str, found: list[dict[str, Any]]) -> None:
    MEASURED.write_text(json.dumps({**_measured(), part: found}, indent=1) + "\n", "utf-8")


def _measured() -> dict[str, Any]:
    return dict(json.loads(MEASURED.read_text("utf-8"))) if MEASURED.exists() else {}


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "zoo": lambda: zoo(members(), "routing"),
    "systems": lambda: zoo(systems(), "system", KEEP_CASES // 4),
    "mutation": lambda: [entry for target in mutation.ROUTING for entry in mutation.run(target)],
    "attach": lambda: attach(mutation.reach(mutation.ATTACH)),
    "alarms": lambda: alarms.run(ALARM_CASES),
}


if __name__ == "__main__":
    main(sys.argv[1:])
