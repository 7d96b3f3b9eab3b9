"""What a person at a terminal sees of a run: progress on stderr, a summary table on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from okr.experiment.results import Results

_LABELS = {"watermarked": "watermarked samples", "control": "control samples", "quality": "held-out passages"}


class Bars:
    """Progress bars, one a task (see runner.Progress)."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._stage: Any = None

    def stage(self, text: str) -> None:
        """Show ``text`` until the next stage or task begins; at a terminal only, since elsewhere nothing vanishes."""
        self._end_stage()
        if self._progress.console.is_terminal:
            self._progress.start()  # not before: a run that ends at once shows its error and nothing else
            self._stage = self._progress.add_task(text, total=None)

    def total(self, task: str, count: int) -> None:
        """Show a bar of ``count`` steps for ``task``."""
        self._end_stage()
        self._progress.start()
        self._tasks[task] = self._progress.add_task(_LABELS[task], total=count)

    def advance(self, task: str, count: int = 1) -> None:
        """Move the bar of ``task``."""
        self._progress.advance(self._tasks[task], count)

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on stderr for the length of a ``with`` block."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    shown = Bars(progress)
    try:
        yield shown
    finally:
        shown._end_stage()
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
    with Progress(*columns, console=console, transient=True) as progress:
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
        f"control p-values uniform: p = {results.control_uniformity.p_value:.2g}; results in {folder}"
    )
    table.caption_justify = "left"
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
