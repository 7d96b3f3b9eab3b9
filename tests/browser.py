"""A page in a real browser: headless Chromium, what the page asks for, what it draws, what its console says."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FRAME = """<!doctype html><iframe id="page" src="{}" width="1200" height="3000"></iframe><pre id="seen"></pre><script>
document.getElementById("page").onload = (event) => {{
  const inside = event.target.contentWindow;
  document.getElementById("seen").textContent = JSON.stringify({{
    loaded: inside.performance.getEntriesByType("resource").map((entry) => entry.name),
    figures: [...inside.document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width),
    captions: [...inside.document.querySelectorAll("figure")].map((figure) => figure.innerText.trim()),
    wide: inside.document.documentElement.scrollWidth,
  }});
}};
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``folder`` on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def opened(page: str, folder: Path) -> tuple[dict, list[str]]:
    """What ``page`` loaded and drew, and the lines of the browser's console. Writes into ``folder``."""
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format("report.html"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
             "--disable-background-networking", "--disable-component-update", "--no-first-run",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}",
             "--virtual-time-budget=5000"]  # fmt: skip
    with served(folder) as address:
        done = subprocess.run(
            [str(CHROMIUM), *flags, f"{address}/frame.html"], capture_output=True, text=True, timeout=120, check=True
        )
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen, done.stderr[-2000:]
    return json.loads(unescape(seen[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
