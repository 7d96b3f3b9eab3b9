"""The reports in conformance/reports hold, and the page shows them as they are."""

import pytest

from okr.spec import published, registry
from okr.spec.report import schema

FILES = sorted(published.FOLDER.iterdir())


def test_the_published_table_is_current():
    assert published.DOCUMENT.read_text("utf-8") == published.render()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_stored_report_is_valid_and_looked_hard(path):
    report = schema.read(path.read_bytes())
    assert report.profile in ("ci", "thorough")
    assert path.suffix == ".json"


def test_each_report_is_one_row_of_the_table():
    table = published.render().partition(published.BEGIN)[2].partition(published.END)[0]
    assert len(table.strip().splitlines()) == len(FILES) + 2


def test_what_ships_has_a_report_that_claims_core_routing():
    claims = {one.implementation.name: one.tallies[0].conforms for one in published.stored().values()}
    assert claims["okr numpy"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"version": registry.EARLIER[0]}, f" (specification {registry.EARLIER[0]})"),
        ({"clauses": "0" * 64}, " (other clauses)"),
        ({"vectors": "0" * 64}, " (other vectors)"),
    ],
)
def test_the_table_says_what_has_changed_since(changed, said):
    now = {"version": registry.VERSION, "clauses": registry.ids_digest(), "vectors": published.vectors_digest()}
    report = schema.read(FILES[0].read_bytes())
    spec = schema.Specification(**{**now, **changed})
    assert published.age(report.model_copy(update={"specification": spec})) == said
