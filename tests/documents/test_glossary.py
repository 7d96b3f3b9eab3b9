"""The glossary and the paths on the pages: one entry a word, and every file that a page names is there."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACE = re.compile(r"`((?:okr|spec|studies|bench|tests|tools|docs)/[\w./-]*)`")


def missing(text):
    """The paths of the repository that a text names and that are not there."""
    return sorted({place for place in PLACE.findall(text) if not (ROOT / place).exists()})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page):
    assert missing(page.read_text(encoding="utf-8")) == []


def test_a_file_that_is_not_there_is_noticed():
    assert missing("`okr/routing/keys.py` and `okr/attach/replay.py`") == ["okr/attach/replay.py"]


def test_a_word_has_one_entry():
    text = GLOSSARY.read_text(encoding="utf-8")
    words = Counter(re.findall(r"\*\*([\w -]+)\*\*", text))
    assert [word for word, count in words.items() if count > 1] == []
    wanted = "site router zone epsilon strength pool locked opportunity preference projection key decoy image trace "
    wanted += (
        "replay evidence verdict p-value keyed watermarked control cost capacity engine run suite cell study chapter "
    )
    wanted += "clause check zoo vector"
    assert set(wanted.split()) <= set(words)
