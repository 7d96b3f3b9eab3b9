"""The table from each clause to what tests it. ``python -m okr.spec.clauses`` rewrites docs/clauses.md."""

from itertools import groupby
from pathlib import Path

from . import registry, vectors
from .checks import all_checks
from .registry import Clause
from .zoo import Member, members
from .zoo.systems import System, systems

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "clauses.md"
_PARTS = (
    "text/??-{}.md",
    "checks/{}.py",
    "checks/{}_*.py",
    "zoo/{}.py",
    "zoo/systems/{}.py",
    "zoo/systems/{}_*.py",
)  # of spec/, for each chapter
_HEAD = """# What tests each clause

`python -m okr.spec.clauses` writes this page from the [specification](../spec/text/00-terms.md) and its tests.

- A **check** is a function in `spec/checks/`. It draws cases and says whether the clause holds on each of them.
- A **zoo member** is a router or a system with one seeded bug, in `spec/zoo/` or `spec/zoo/systems/`. The clause must
  catch each member in its row.
- A **vector** is a stored case with its legal answers, in `spec/vectors/`. Routing clauses have vectors,
  and the chapter on the evidence in swaps.

The [glossary](glossary.md) explains the words. [How good the suite is](adequacy.md) says what was measured with it.
"""


def breakers() -> dict[str, list[str]]:
    """Clause id to the zoo members that must fail the clause, as ``module.Name``, in the order of the zoo."""
    found: dict[str, list[str]] = {clause: [] for clause in registry.load()}
    places: list[tuple[Member | System, str]] = [(router, router.router.__module__) for router in members()]
    places += [(system, system.seed.__module__) for system in systems()]
    for member, module in places:
        for clause in member.fails:
            found[clause].append(f"{module.partition('.zoo.')[2]}.{member.name}")
    return found


def render() -> str:
    """The content of docs/clauses.md."""
    broken = breakers()
    sections = [_HEAD]
    for chapter, clauses in groupby(registry.load().values(), lambda clause: clause.chapter):
        group = list(clauses)
        places = [place for part in _PARTS for place in sorted(registry.ROOT.glob(part.format(chapter)))]
        names = ", ".join(f"`spec/{place.relative_to(registry.ROOT).as_posix()}`" for place in places)
        lines = [f"## {group[0].title}", "", f"{names}.", "", "| clause | checks | zoo members | vectors |"]
        lines += ["| --- | --- | --- | --- |", *(_row(clause, broken[clause.id]) for clause in group), ""]
        sections.append("\n".join(lines))
    return "\n".join(sections)


def _row(clause: Clause, broken: list[str]) -> str:
    checks = [check.name for check in all_checks() if check.clause == clause.id]
    stored = [vector.id for vector in vectors.for_clause(clause.id)]
    columns = (", ".join(f"`{name}`" for name in names) for names in (checks, broken, stored))
    return f"| {clause.id} | {' | '.join(columns)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(render(), "utf-8")
