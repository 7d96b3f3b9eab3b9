"""Progress of a suite on stderr: cells done, time gone, an estimate of the time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from okr.suites.cells import Record


class Bar:
    """One bar over all cells; the time left follows from their weights."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("loading", total=None, left="")
        self._started, self._done, self._weight = time.monotonic(), 0.0, 0.0

    def begin(self, cells: int, weight: float) -> None:
        """So many cells, weighing so much, are left to do."""
        self._started, self._weight = time.monotonic(), weight
        self._progress.update(self._task, description="cells", total=cells)

    def done(self, record: Record, weight: float) -> None:
        """A cell has ended."""
        self._done += weight
        left = estimate(time.monotonic() - self._started, self._done, self._weight)
        text = f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
        self._progress.update(self._task, advance=1, description=record.name[:40], left=text)


def estimate(seconds: float, done: float, weight: float) -> float:
    """Seconds that the rest will take if it goes on as it went."""
    return seconds * (weight - done) / done if done > 0 else 0.0


@contextmanager
def watching() -> Iterator[Bar]:
    """A bar on stderr for the length of a ``with`` block."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[left]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress)
