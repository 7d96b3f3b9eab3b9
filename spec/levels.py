"""Conformance levels: the five parts of the specification of which an implementation can say that it conforms.

A level is some chapters, and a chapter's clauses may belong to two: what the chapter KEY asks of a router is core
routing, and what it asks of keys and key files is serving. docs/conformance.md says the same in a table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .registry import Clause
from .verdicts import Verdict

CONDITIONAL = ("OKR-ZONE-013",)
"""Clauses about something that an implementation may leave out: a report of the zone."""

_ROUTER = ("key", "score", "zone", "strength", "selection", "ties", "failopen")
LEVELS: dict[str, Callable[[Clause], bool]] = {
    "core routing": lambda clause: clause.level == "routing" and clause.chapter in _ROUTER,
    "serving": lambda clause: clause.level == "system" and clause.chapter in ("key", "weight", "attach"),
    "traces": lambda clause: clause.chapter in ("trace", "replay"),
    "statistics": lambda clause: clause.chapter in ("verify", "evidence", "text", "result"),
    "baking": lambda clause: clause.chapter == "bake",
}


def level_of(clause: Clause) -> str:
    """The one level that a clause belongs to. Raises ValueError for a clause of none or several."""
    found = [name for name, holds in LEVELS.items() if holds(clause)]
    if len(found) != 1:
        raise ValueError(f"{clause.id} belongs to {len(found)} conformance levels")
    return found[0]


@dataclass(frozen=True)
class Tally:
    """How an implementation stands to one level: of how many clauses, how many passed, how many do not apply."""

    level: str
    clauses: int
    passed: int
    not_applicable: int

    @property
    def applies(self) -> bool:
        """Whether any clause of the level speaks of this implementation."""
        return self.not_applicable < self.clauses

    @property
    def conforms(self) -> bool:
        """Whether every clause passed, but for those about what was left out. A level without a pass is not claimed."""
        return 0 < self.passed == self.clauses - self.not_applicable

    def __str__(self) -> str:
        if not self.applies:
            return f"{self.level}: not applicable"
        if self.conforms:
            return f"{self.level}: conforms"
        return f"{self.level}: {self.passed} of {self.clauses - self.not_applicable}"


def tallies(verdicts: dict[str, Verdict], clauses: Iterable[Clause]) -> list[Tally]:
    """One tally for each level, in the order of LEVELS. ``verdicts`` by clause id; a clause without one has not passed.

    ``clauses`` are all of the specification, whatever was judged.
    """
    members: dict[str, list[str]] = {name: [] for name in LEVELS}
    for clause in clauses:
        members[level_of(clause)].append(clause.id)
    found = []
    for name, ids in members.items():
        said = [verdicts.get(clause) for clause in ids]
        found.append(Tally(name, len(ids), said.count("pass"), said.count("not applicable")))
    return found
