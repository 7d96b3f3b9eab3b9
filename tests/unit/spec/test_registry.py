"""The text, its registry and the checks belong together, one to one."""

import pytest

from okr.spec import registry, vectors
from okr.spec.checks import all_checks
from okr.version import SPEC_VERSION


def test_the_registry_is_current():
    assert registry.REGISTRY.read_text("utf-8") == registry.render(registry.read_text())


def test_every_clause_has_a_check_and_every_check_a_clause():
    clauses, checked = set(registry.load()), {check.clause for check in all_checks()}
    assert clauses - checked == set()
    assert checked - clauses == set()


def test_checks_stand_in_a_module_of_their_chapter():
    for check in all_checks():
        module = check.body.__module__.rpartition(".")[2]
        assert module.partition("_")[0] == registry.load()[check.clause].chapter


def test_vectors_name_clauses_that_exist():
    named = {clause for vector in (*vectors.load(), *vectors.load_evidence()) for clause in vector.clauses}
    assert named <= set(registry.load())


def test_versions_agree():
    assert registry.VERSION == SPEC_VERSION
    assert f"version {registry.VERSION}. " in (registry.TEXT / "00-terms.md").read_text("utf-8")


WITHDRAWN = {"OKR-VERIFY-008"}


def test_withdrawn_clauses_do_not_come_back():
    assert WITHDRAWN & set(registry.load()) == set()


def test_clause_numbers_of_a_chapter_have_no_gaps():
    chapters = {}
    for clause in sorted({*registry.load(), *WITHDRAWN}):
        group, number = clause.rsplit("-", 1)
        chapters.setdefault(group, []).append(int(number))
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in chapters.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("### OKR-A-001 · MUST · routing\nx\n", "title"),
        ("# T\n\nx\n\n### OKR-A-001 · MAY · routing\nx *Why:* y *Likely bug:* z\n", "heading"),
        ("# T\n\nx\n\n### OKR-A-001 · MUST · routing\nx *Why:* y\n", "needs"),
    ],
)
def test_malformed_chapters_are_errors(text, message):
    with pytest.raises(ValueError, match=message):
        registry.parse(text)


def test_draft_chapters_have_no_clauses():
    clause = "### OKR-A-001 · MUST · routing\n\nx *Why:* y *Likely bug:* z\n"
    text = f"# T\n\nThis chapter is a draft, not yet testable.\n\n{clause}"
    assert registry.parse(text) == []
    assert len(registry.parse(text.replace("draft, not yet testable", "chapter"))) == 1
