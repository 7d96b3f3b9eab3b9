"""The step that runs ``pytest -m gpu``, and keeps every outcome as soon as it is known."""

import os
from pathlib import Path

import pytest

from card.notes import Notes
from card.sizes import Sizes

ROOT = Path(__file__).resolve().parents[2]
FILES = [f"tests/gpu/test_{name}.py" for name in ("routers", "decoding", "experiment")]
"""Cheap and telling ones first."""


class Outcomes:
    """A plugin of pytest that notes the outcome of each test, its seconds and the reason of a skip or a failure."""

    def __init__(self, note: Notes) -> None:
        self.note, self.found = note, {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.note("collected", len(session.items))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        entry = self.found.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        entry["seconds"] = round(entry["seconds"] + report.duration, 1)
        if report.outcome != "passed" and entry["outcome"] != "failed":
            said = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
            entry |= {"outcome": report.outcome, "said": " ".join(str(said).split())[-500:]}
        if report.when == "teardown":
            self.note("tests", self.found)


def tests(sizes: Sizes, folder: Path, note: Notes) -> None:
    """Run the suite of the card, or only collect it at the tiny size."""
    os.chdir(ROOT)
    # At the tiny size the package may be imported already, so its shapes cannot be checked.
    options = ["--collect-only", "-q", "-o", "addopts="] if sizes.tiny else ["-v"]
    where = [f"--junitxml={folder.resolve() / 'tests.xml'}", "-p", "no:cacheprovider", "-p", "no:randomly"]
    status = pytest.main([*options, "-m", "gpu", "-n", "0", *where, *FILES], plugins=[Outcomes(note)])
    note("exit status", int(status))
