"""The site: every page is short and has its place behind one of four doors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LONGEST = 12_000  # characters; the chapters of the specification have no limit
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
DOORS = ["Use it", "Prove it", "Port it", "How good is it"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page: str) -> None:
    """What stands behind a fold counts."""
    assert len((DOCS / page).read_text(encoding="utf-8")) <= LONGEST


def test_every_page_has_one_place() -> None:
    placed = re.findall(r"(\S+\.md)$", NAV, re.MULTILINE)
    chapters = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "spec" / "text").glob("*.md"))
    assert sorted(placed) == sorted([*PAGES, *chapters])


def test_there_are_four_doors() -> None:
    """The first page has a card for each of them."""
    assert re.findall(r"^  - ([^:]+):$", NAV, re.MULTILINE) == DOORS
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \*\*(.+?)\??\*\*$", first, re.MULTILINE) == DOORS
