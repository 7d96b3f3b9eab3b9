"""``python -m spec.adequacy [zoo] [mutation] [alarms]`` measures, all by default, and rewrites docs/adequacy.md."""

import json
import sys
from pathlib import Path
from typing import Any

from spec.adequacy import alarms, mutation, report
from spec.profiles import Profile
from spec.zoo import members

HERE = Path(__file__).parent
MEASURED = HERE / "measured.json"
EXPLAINED = HERE / "survivors.json"
DOCUMENT = HERE.parent.parent / "docs" / "adequacy.md"
ZOO_CASES = 60
ALARM_CASES = 10_000


def zoo() -> list[dict[str, Any]]:
    """Each member, with what came out otherwise than declared."""
    profile = Profile("zoo", ZOO_CASES, shrink=False)
    found = []
    for member in members():
        answers = member.judge(profile)
        killers = sorted(c for c, (_, result) in answers.items() if member.clauses()[c] and result.failed)
        surprises = {c: result.verdict for c, (fine, result) in answers.items() if not fine}
        found.append({"name": member.name, "bug": member.bug, "killers": killers, "surprises": surprises})
        print(f"zoo {member.name}: {surprises or 'as declared'}", file=sys.stderr)
    return found


def main(parts: list[str]) -> None:
    """Measure ``parts``; the others keep the figures of their last run."""
    measured: dict[str, Any] = json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}
    for part in parts or ["zoo", "mutation", "alarms"]:
        if part == "zoo":
            measured["zoo"] = zoo()
        elif part == "mutation":
            measured["mutation"] = [entry for module in mutation.MODULES for entry in mutation.run(module)]
        elif part == "alarms":
            measured["alarms"] = alarms.run(ALARM_CASES)
        else:
            sys.exit(f"there is no part {part!r}: zoo, mutation, alarms")
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
    explained = json.loads(EXPLAINED.read_text("utf-8"))
    DOCUMENT.write_text(report.render(measured, explained), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
