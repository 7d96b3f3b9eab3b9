"""report.html in a real browser: headless Chromium shows it, asks nobody for anything, and its console stays empty."""

from pathlib import Path

import pytest
from browser import CHROMIUM, opened

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: install chromium")


def test_the_report_opens(finished: Path, tmp_path: Path) -> None:
    seen, console = opened((finished / "report.html").read_text(encoding="utf-8"), tmp_path)
    assert seen["loaded"] == []
    assert console == []
    assert len(seen["figures"]) == 7
    assert all(width > 300 for width in seen["figures"])
    assert seen["wide"] <= 1200  # nothing to scroll sideways for


def test_a_page_that_asks_for_more_is_noticed(tmp_path: Path) -> None:
    page = '<!doctype html><img src="missing.png"><script>console.error("wrong")</script>'
    seen, console = opened(page, tmp_path)
    assert [name.rpartition("/")[2] for name in seen["loaded"]] == ["missing.png"]
    assert any("wrong" in line for line in console)
