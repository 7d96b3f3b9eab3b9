"""What a run consists of, which process does which part, and doing it: batches of both groups, the held-out loss."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from okr.experiment import held_out_loss
from okr.experiment.config import RunConfig
from okr.experiment.sampling import GROUPS, Group, Subject, is_whole, make_batch, session
from okr.loaders import memory_guard
from okr.loaders.prompts import encode, sampling

QUALITY: Literal["quality"] = "quality"
Task = tuple[int, Group | Literal["quality"]]
"""The index of a batch and its group; the held-out loss comes last, as (number of batches, QUALITY)."""


def tasks(config: RunConfig) -> list[Task]:
    """All tasks of a run, in order."""
    batches = -(-config.samples // config.batch_size)
    return [*((index, group) for index in range(batches) for group in GROUPS), (batches, QUALITY)]


def finished(folder: Path, config: RunConfig, records: Sequence[dict[str, Any]]) -> dict[Task, dict[str, Any]]:
    """The journal records of tasks that are whole, traces included; the last record of a task counts."""
    found = {task_of(record, config): record for record in records}
    return {task: record for task, record in found.items() if task[1] == QUALITY or is_whole(folder, record)}


def task_of(record: dict[str, Any], config: RunConfig) -> Task:
    """The task that a journal record is about."""
    return tasks(config)[-1] if record["kind"] == QUALITY else (record["index"], record["group"])


def share(left: Sequence[Task], rank: int, count: int) -> list[Task]:
    """The tasks of process ``rank`` of ``count``: dealt in turn, both groups of a batch to the same process.

    Batches stay whole, because a sample's last bits depend on the samples beside it: no split changes any sample.
    """
    own = list(dict.fromkeys(index for index, _ in left))[rank::count]
    return [task for task in left if task[0] in own]


def work(
    subject: Subject, folder: Path, prompts: Sequence[str], todo: Sequence[Task], advance: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Do the tasks one by one; gives each one's journal record once its traces are on disk.

    ``prompts`` are those of the whole run. ``advance`` is called after each passage of the held-out loss. Raises
    OutOfMemory with advice.
    """
    config = subject.config
    warm = False
    for index, group in todo:
        if group == QUALITY:
            started = time.perf_counter()
            with memory_guard("measuring the held-out loss", batch_size=1):
                record = held_out_loss.measure(subject, advance)
            yield record | {"seconds": time.perf_counter() - started}
            continue
        with memory_guard("generating", batch_size=config.batch_size, max_length=config.max_length):
            if not warm:
                _warm_up(subject, prompts)
                warm = True
            own = prompts[index * config.batch_size :][: config.batch_size]
            record = make_batch(subject, folder, group, index, own)
        yield record


def _warm_up(subject: Subject, prompts: Sequence[str]) -> None:
    """One short generation a group, so that the first batch's clock does not count what happens only once."""
    inputs = encode(subject.loaded, prompts[: subject.config.batch_size], subject.config.max_length)
    for group in GROUPS:
        with session(subject, group):
            subject.loaded.model.generate(**inputs, **sampling(subject.loaded, 2, subject.config.temperature))  # type: ignore[operator]
