"""What a person at a terminal sees of a run: progress on stderr, a summary table on stdout."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from okr.experiment.results import Results

_LABELS = {"watermarked": "watermarked samples", "control": "control samples", "quality": "held-out passages"}


class Bars:
    """Progress bars, and an estimate of the time left (see okr.jobs.progress.Progress)."""

    def __init__(self, progress: RichProgress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._stage: TaskID | None = None
        self._started, self._weight, self._done = time.monotonic(), 0.0, 0.0

    def stage(self, text: str) -> None:
        """Show ``text`` until the next stage or bar begins; at a terminal only, since elsewhere nothing vanishes."""
        self.end_stage()
        if self._progress.console.is_terminal:
            self._progress.start()  # not before: a run that ends at once shows its error and nothing else
            self._stage = self._progress.add_task(text, total=None, left="")

    def expect(self, weight: float) -> None:
        """What is left to do weighs ``weight``."""
        self._started, self._weight, self._done = time.monotonic(), weight, 0.0

    def total(self, bar: str, steps: int) -> None:
        """Show a bar of ``steps`` steps."""
        self.end_stage()
        self._progress.start()
        self._tasks[bar] = self._progress.add_task(_LABELS.get(bar, bar), total=steps, left="")

    def advance(self, bar: str, steps: int, weight: float = 0.0) -> None:
        """Move a bar, and estimate the time that the rest takes if it goes on as it went."""
        self._done += weight
        seconds = time_left(time.monotonic() - self._started, self._done, self._weight)
        self._progress.advance(self._tasks[bar], steps)
        for name, task in self._tasks.items():
            self._progress.update(task, left=_in_words(seconds) if name == bar else "")

    def end_stage(self) -> None:
        """Take the text of the stage away."""
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None


def time_left(seconds: float, done: float, weight: float) -> float:
    """Seconds that the rest of ``weight`` will take, if ``done`` took ``seconds``; 0 where nothing is known."""
    return max(0.0, seconds * (weight - done) / done) if done > 0 else 0.0


def _in_words(seconds: float) -> str:
    if seconds < 1:
        return ""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on stderr for the length of a ``with`` block."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[left]}"))  # fmt: skip
    progress = RichProgress(*columns, console=Console(stderr=True))
    shown = Bars(progress)
    try:
        yield shown
    finally:
        shown.end_stage()
        if progress.live.is_started:
            progress.stop()


@contextmanager
def counting(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[[float], None]]:
    """One progress bar on stderr for the length of a ``with`` block; call what it gives with every step's size.

    Nothing is shown where ``shown`` is false or stderr is no terminal."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def summary_table(results: Results, folder: Path) -> Table:
    """The outcome as a table."""
    summary, quality, timings = results.summary, results.quality, results.timings
    table = Table(title=f"{results.experiment_name} under key {results.key_id}", title_justify="left")
    table.add_column()
    table.add_column("watermarked", justify="right")
    table.add_column("control", justify="right")
    table.add_row(
        f"found watermarked (p ≤ {summary.detection_threshold:g})",
        f"{summary.watermarked_samples} / {summary.total_samples}",
        f"{summary.control_watermarked_samples} / {summary.control_samples}",
    )
    table.add_row(
        "p-value, largest / smallest", f"{summary.largest_p_value:.3g}", f"{summary.control_smallest_p_value:.3g}"
    )
    table.add_row("hit rate, mean", _rate(summary.average_hit_rate), _rate(summary.control_average_hit_rate))
    table.add_row("held-out loss, nats per token", f"{quality.loss_keyed:.4f}", f"{quality.loss_unkeyed:.4f}")
    table.add_row(
        "tokens per second",
        f"{timings.watermarked.tokens_per_second:.0f}",
        f"{timings.control.tokens_per_second:.0f}",
    )
    table.caption = (
        f"cost {quality.cost:+.4f} nats per token (95%: {quality.cost_low:+.4f} to {quality.cost_high:+.4f}); "
        f"ranks of unrelated keys uniform: p = {results.control_uniformity.p_value:.2g}; results in {folder}"
    )
    table.caption_justify = "left"
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
