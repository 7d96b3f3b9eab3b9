"""Pages of every room: text that stays text, strict templates, sections that anybody may hand over."""

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.pages import markdown
from okr.pages.numbers import between, number
from okr.pages.sections import Plot, Section, Table
from okr.pages.templating import template

TABLE = Table("A <title>", "what it *is*", ("name", "share"), (("a|b <i>", "0.50 (0.40 to 0.60)"),))
SECTION = Section("Found", ("a & b",), (Plot("<svg></svg>", "a < b"),), (TABLE,))


@given(st.text(max_size=30))
def test_text_from_elsewhere_stays_in_its_cell(text: str) -> None:
    """However it is written: one line, and every bar in it is escaped."""
    line = markdown.row([markdown.cell(text), "x"])
    assert len(line.splitlines()) == 1
    plain = line.replace("\\\\", "").replace("\\|", "")
    assert plain.count("|") == 3


def test_a_table_has_its_cells_in_order() -> None:
    assert markdown.table(["a", "b"], [["1", "2"], ["3", ""]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |"
    assert markdown.rows_table([{"a": 1, "b": 2}, {"a": 3}]) == markdown.table(["a", "b"], [["1", "2"], ["3", ""]])


@pytest.mark.parametrize("name", ["sections.html", "sections.md"])
def test_a_template_that_lacks_a_name_is_an_error(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match="sections"):
        template("okr.pages", name).render()


def test_sections_in_html_are_escaped_and_leave_no_blank_lines() -> None:
    page = template("okr.pages", "sections.html").render(sections=[SECTION])
    assert page.count("\n\n") == 0
    for part in ("<h2>Found</h2>", "<p>a &amp; b</p>", "<svg></svg>", "a &lt; b", "A &lt;title&gt;", "a|b &lt;i&gt;"):
        assert part in page
    assert '0.50 <span class="ends">(0.40 to 0.60)</span>' in page


def test_sections_in_markdown_are_parted_by_one_blank_line() -> None:
    page = template("okr.pages", "sections.md").render(sections=[SECTION, SECTION]).strip()
    assert "\n\n\n" not in page
    assert "\n\n| name | share |\n| --- | --- |\n| a\\|b \\<i\\> | 0.50 (0.40 to 0.60) |\n\n## Found" in page


def test_numbers_are_short_where_they_are_large() -> None:
    assert (number(0.12345), number(99.9, 1), number(1234.5)) == ("0.123", "99.9", "1234")
    assert between(0.5, 0.4, 0.6, 2) == "0.50 (0.40 to 0.60)"
