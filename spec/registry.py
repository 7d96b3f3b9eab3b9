"""The clauses as data, read from the normative text. ``python -m okr.spec.registry`` rewrites registry.json."""

import json
import re
import sys
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parent
TEXT = ROOT / "text"
REGISTRY = ROOT / "registry.json"
VERSION = "1.1"
EARLIER = ("1.0",)

_HEADING = re.compile(r"^### (?P<id>OKR-[A-Z]+-\d{3}) · (?P<keyword>MUST|SHOULD) · (?P<level>routing|system)$", re.M)
_CHAPTER = re.compile(r"^# (?P<title>.+)$", re.M)
_DRAFT = "draft, not yet testable"


@dataclass(frozen=True)
class Clause:
    """One numbered requirement.

    ``level`` says of what: ``routing`` (the three functions of a router) or ``system`` (a router at work in a model,
    with its keys, traces, verdicts and results). ``chapter`` is the chapter's name in text/, checks/ and zoo/.
    """

    id: str
    keyword: str
    level: str
    chapter: str
    title: str
    statement: str
    why: str
    bug: str


def parse(text: str, source: str = "00-text.md") -> list[Clause]:
    """The clauses of one chapter. Raises ValueError for a clause without statement, reason or likely bug.

    A chapter marked as draft has none.
    """
    title = _CHAPTER.search(text)
    if title is None:
        raise ValueError(f"{source}: a chapter starts with a '# title' line")
    if _DRAFT in text.split("\n\n", 2)[1]:
        return []
    marks = [*_HEADING.finditer(text)]
    if len(marks) != text.count("\n### "):
        raise ValueError(f"{source}: a '###' heading does not read '### OKR-XXX-000 · MUST|SHOULD · routing|system'")
    if not marks:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    chapter = source.removesuffix(".md").partition("-")[2]
    clauses = []
    for mark, end in zip(marks, ends, strict=True):
        body = text[mark.end() : end].split("\n## ")[0]
        statement, _, rest = body.partition("*Why:*")
        why, _, bug = rest.partition("*Likely bug:*")
        parts = [" ".join(part.split()) for part in (statement, why, bug)]
        if not all(parts):
            raise ValueError(f"{source}: {mark['id']} needs a statement, *Why:* and *Likely bug:*")
        clauses.append(Clause(mark["id"], mark["keyword"], mark["level"], chapter, title["title"], *parts))
    return clauses


def read_text() -> list[Clause]:
    """Every clause of the normative text, in its order. Raises ValueError where an id is used twice."""
    clauses = [c for path in sorted(TEXT.glob("*.md")) for c in parse(path.read_text("utf-8"), path.name)]
    ids = [clause.id for clause in clauses]
    if len(set(ids)) != len(ids):
        raise ValueError(f"clause ids used twice: {sorted({i for i in ids if ids.count(i) > 1})}")
    return clauses


def render(clauses: list[Clause]) -> str:
    """The content of registry.json."""
    document = {"spec_version": VERSION, "clauses": [asdict(clause) for clause in clauses]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


@cache
def load() -> dict[str, Clause]:
    """The generated registry: clause id to clause, in the order of the text."""
    document = json.loads(REGISTRY.read_text("utf-8"))
    return {entry["id"]: Clause(**entry) for entry in document["clauses"]}


def ids_digest() -> str:
    """SHA-256 over the ids of the clauses, each on a line of its own, as hexadecimal digits."""
    return sha256("".join(f"{clause}\n" for clause in load()).encode("ascii")).hexdigest()


if __name__ == "__main__":
    try:
        found = read_text()
    except ValueError as error:
        sys.exit(str(error))
    REGISTRY.write_text(render(found), "utf-8")
    print(f"{REGISTRY.name}: {len(found)} clauses")
