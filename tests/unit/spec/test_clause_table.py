"""docs/clauses.md and docs/clauses/ are what their generator writes.

They leave no clause without a check or a bug that it catches.
"""

from okr.spec import clauses, registry


def test_the_published_tables_are_current():
    pages = clauses.render()
    assert {name: (clauses.DOCS / name).read_text("utf-8") for name in pages} == pages
    assert {f"clauses/{path.name}" for path in (clauses.DOCS / "clauses").iterdir()} == set(pages) - {"clauses.md"}


def test_every_clause_has_one_row_with_a_check_and_a_bug_that_it_catches():
    lines = [line for page in clauses.render().values() for line in page.splitlines()]
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| OKR-")]
    assert [row[0] for row in rows] == list(registry.load())
    assert [row[0] for row in rows if not (row[1].strip() and row[2].strip())] == []


def test_a_chapter_has_one_name_in_text_checks_and_zoo():
    chapters = {clause.chapter for clause in registry.load().values()}
    for folder in ("checks", "zoo", "zoo/systems"):
        modules = {path.stem.partition("_")[0] for path in (registry.ROOT / folder).glob("*.py")} - {""}
        assert modules <= chapters, folder
