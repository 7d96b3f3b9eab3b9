"""docs/clauses.md is what its generator writes, and leaves no clause without a check or a bug that it catches."""

from okr.spec import clauses, registry


def test_the_published_table_is_current():
    assert clauses.DOCUMENT.read_text("utf-8") == clauses.render()


def test_every_clause_has_one_row_with_a_check_and_a_bug_that_it_catches():
    rows = [line.strip("| ").split(" | ") for line in clauses.render().splitlines() if line.startswith("| OKR-")]
    assert [row[0] for row in rows] == list(registry.load())
    assert [row[0] for row in rows if not (row[1].strip() and row[2].strip())] == []


def test_a_chapter_has_one_name_in_text_checks_and_zoo():
    chapters = {clause.chapter for clause in registry.load().values()}
    for folder in ("checks", "zoo", "zoo/systems"):
        modules = {path.stem.partition("_")[0] for path in (registry.ROOT / folder).glob("*.py")} - {""}
        assert modules <= chapters, folder
