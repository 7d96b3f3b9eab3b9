"""report.html in a real browser: headless Chromium shows it, asks nobody for anything, and its console stays empty."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: install chromium")

FRAME = """<!doctype html><iframe id="page" src="{}" width="1200" height="3000"></iframe><pre id="seen"></pre><script>
document.getElementById("page").onload = (event) => {{
  const inside = event.target.contentWindow;
  document.getElementById("seen").textContent = JSON.stringify({{
    loaded: inside.performance.getEntriesByType("resource").map((entry) => entry.name),
    figures: [...inside.document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width),
    wide: inside.document.documentElement.scrollWidth,
  }});
}};
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of ``tmp_path`` on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def opened(page: str, served: str, tmp_path: Path) -> tuple[dict, list[str]]:
    """What ``page`` loaded and drew, and the lines of the browser's console."""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format("report.html"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
             "--disable-background-networking", "--disable-component-update", "--no-first-run",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=5000"]  # fmt: skip
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"{served}/frame.html"], capture_output=True, text=True, timeout=120, check=True
    )
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen, done.stderr[-2000:]
    return json.loads(unescape(seen[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_report_opens(finished: Path, served: str, tmp_path: Path) -> None:
    seen, console = opened((finished / "report.html").read_text(encoding="utf-8"), served, tmp_path)
    assert seen["loaded"] == []
    assert console == []
    assert len(seen["figures"]) == 4
    assert all(width > 300 for width in seen["figures"])
    assert seen["wide"] <= 1200  # nothing to scroll sideways for


def test_a_page_that_asks_for_more_is_noticed(served: str, tmp_path: Path) -> None:
    page = '<!doctype html><img src="missing.png"><script>console.error("wrong")</script>'
    seen, console = opened(page, served, tmp_path)
    assert [name.rpartition("/")[2] for name in seen["loaded"]] == ["missing.png"]
    assert any("wrong" in line for line in console)
