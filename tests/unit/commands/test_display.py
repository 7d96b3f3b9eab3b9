"""What a person sees of a job: bars, and an estimate of the time left."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from okr.commands.display import Bars, time_left


def test_time_left_follows_the_weights() -> None:
    assert time_left(10.0, 1.0, 4.0) == 30.0
    assert time_left(10.0, 0.0, 4.0) == 0.0, "nothing is known yet"
    assert time_left(10.0, 5.0, 4.0) == 0.0


def test_the_estimate_stands_at_the_bar_that_moved_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("okr.commands.display.time.monotonic", lambda: now[0])
    progress = Progress(TextColumn("{task.description}"), console=Console(file=io.StringIO()), disable=True)
    bars = Bars(progress)
    bars.expect(10.0)
    bars.total("watermarked", 4)
    bars.total("control", 4)
    bars.advance("control", 1)  # done by an earlier start
    now[0] += 30.0
    bars.advance("watermarked", 2, 2.0)
    shown = {task.description: (task.completed, task.total, task.fields["left"]) for task in progress.tasks}
    assert shown == {"watermarked samples": (2, 4, "about 2 min left"), "control samples": (1, 4, "")}
    now[0] += 30.0
    bars.advance("control", 3, 6.0)
    shown = {task.description: (task.completed, task.total, task.fields["left"]) for task in progress.tasks}
    assert shown == {"watermarked samples": (2, 4, ""), "control samples": (4, 4, "about 15 s left")}
