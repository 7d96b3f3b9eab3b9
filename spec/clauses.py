"""The tables from each clause to what tests it. ``python -m okr.spec.clauses`` rewrites docs/clauses.md and
docs/clauses/."""

from itertools import groupby
from pathlib import Path

from . import registry, vectors
from .checks import all_checks
from .registry import Clause
from .zoo import Member, members
from .zoo.systems import System, systems

DOCS = Path(__file__).resolve().parent.parent / "docs"
_PARTS = (
    "text/??-{}.md",
    "checks/{}.py",
    "checks/{}_*.py",
    "zoo/{}.py",
    "zoo/systems/{}.py",
    "zoo/systems/{}_*.py",
)  # of spec/, for each chapter
_HEAD = """# What tests each clause

`python -m okr.spec.clauses` writes this page and those of the chapters from the
[specification](../spec/text/00-terms.md) and its tests.

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


def render() -> dict[str, str]:
    """The content of docs/clauses.md and of the page of each chapter, by their place in docs/."""
    broken = breakers()
    pages, lines = {}, ["| chapter | clauses | checks | zoo members | vectors |", "| --- | --- | --- | --- | --- |"]
    for chapter, clauses in groupby(registry.load().values(), lambda clause: clause.chapter):
        group = list(clauses)
        columns = [_columns(clause, broken[clause.id]) for clause in group]
        place = f"clauses/{chapter}.md"
        pages[place] = _chapter(chapter, group, columns)
        counts = (str(len(set().union(*names))) for names in zip(*columns, strict=True))
        lines.append(f"| [{group[0].title}]({place}) | {len(group)} | {' | '.join(counts)} |")
    return {"clauses.md": "\n".join([_HEAD, *lines, ""]), **pages}


def _columns(clause: Clause, broken: list[str]) -> tuple[list[str], ...]:
    """The names of a clause's checks, of the zoo members that it must catch and of its vectors."""
    checks = [check.name for check in all_checks() if check.clause == clause.id]
    return checks, broken, [vector.id for vector in vectors.for_clause(clause.id)]


def _chapter(chapter: str, clauses: list[Clause], columns: list[tuple[list[str], ...]]) -> str:
    """The page of a chapter."""
    places = [place for part in _PARTS for place in sorted(registry.ROOT.glob(part.format(chapter)))]
    files = ", ".join(f"`spec/{place.relative_to(registry.ROOT).as_posix()}`" for place in places)
    lines = [
        f"# What tests each clause: {clauses[0].title}",
        "",
        f"[What the columns mean](../clauses.md). {files}.",
        "",
    ]
    lines += ["| clause | checks | zoo members | vectors |", "| --- | --- | --- | --- |"]
    for clause, names in zip(clauses, columns, strict=True):
        cells = (", ".join(f"`{name}`" for name in each) for each in names)
        lines.append(f"| {clause.id} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Write the pages."""
    (DOCS / "clauses").mkdir(exist_ok=True)
    for name, text in render().items():
        (DOCS / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
