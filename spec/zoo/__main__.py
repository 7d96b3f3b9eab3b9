"""``python -m okr.spec.zoo [PROFILE] [NAME...]``: every broken router and system against the clauses it declares."""

import sys
from typing import Any

from ..profiles import PROFILES
from . import judge, members
from .systems import systems

if __name__ == "__main__":
    names = sys.argv[2:]
    chosen = PROFILES[sys.argv[1]] if len(sys.argv) > 1 else PROFILES["ci"]
    wrong = 0
    everyone: list[Any] = [*members(), *systems()]
    for member in everyone:
        if names and member.name not in names:
            continue
        answers = judge(member, chosen.cases, chosen.cases)
        surprises = [f"{clause} {result.verdict}" for clause, (fine, result) in answers.items() if not fine]
        wrong += bool(surprises)
        print(
            f"{member.name:<20} {'as declared' if not surprises else 'NOT AS DECLARED: ' + ', '.join(surprises)}",
            flush=True,
        )
    sys.exit(1 if wrong else 0)
