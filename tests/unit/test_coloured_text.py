"""Coloured texts: what is marked, that texts stay text, and that nothing is told by colour alone."""

import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from okr.pages.coloured_text import Coloured, coloured, page

TEXT = Coloured("a <title>", "what & why", ["It ", "<b>", " is\n", "\u00e9", "!"], [0, 2, 9], [(1, 3, "p = 1e-09")])


def test_spans_have_numbers_brackets_and_labels():
    html = coloured(TEXT)
    assert html == (
        'It <mark aria-label="span 1, p = 1e-09" title="p = 1e-09"><sup>1</sup>[<span class="s2">&lt;b&gt;</span>'
        '<span class="s3"> is\n</span>]</mark>\u00e9!'
    )


@given(st.lists(st.text(max_size=6), max_size=12), st.data())
def test_the_text_is_whole_whatever_it_holds(pieces, data):
    swaps = data.draw(st.lists(st.integers(0, 5), max_size=len(pieces)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(pieces)), max_size=6)))
    spans = [(a, b, "p") for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    html = str(coloured(Coloured("", "", pieces, swaps, spans)))
    assert html.count("<mark") == len(spans)
    plain = re.sub(r"<sup>\d+</sup>\[|\]</mark>|<[^>]*>", "", html)
    assert unescape(plain) == unescape(unescape("".join(pieces))) or unescape(plain) == "".join(pieces)


def test_a_page_loads_nothing_and_escapes_everything():
    html = page([TEXT, Coloured("none", "no span", ["only text"], [], [])])
    assert not re.search(r"(src|href)=|url\(|@import", html)
    assert "<title>" not in html.replace("<title>Where the key acted</title>", "")
    assert "a &lt;title&gt;" in html
    assert "what &amp; why" in html
    assert html.count("<table>") == 1
    assert "1 to 2" in html
