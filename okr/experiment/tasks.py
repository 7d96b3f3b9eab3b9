"""The tasks of a run: batches of both groups, then the held-out loss."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from okr.experiment import held_out_loss
from okr.experiment.held_out_loss import Loss
from okr.experiment.sampling import GROUPS, Batch, Group, Subject, is_whole, make_batch, session
from okr.jobs.tasks import Step, Task
from okr.loaders import memory_guard
from okr.loaders.prompts import encode, sampling

QUALITY = "quality"
Left = Batch | Loss
"""What a task of a run leaves."""


def tasks_of(subject: Subject, folder: Path, prompts: Sequence[str]) -> list[Task[Left]]:
    """All tasks of a run in ``folder``, in order. ``prompts`` are those of the whole run.

    Batches stay whole, because a sample's last bits depend on the samples beside it; both groups of a batch are made by
    the same process. So however the tasks are shared, every sample comes out the same.
    """
    config = subject.config
    warm = cache(partial(_warm_up, subject, tuple(prompts[: config.batch_size])))

    def batch(index: int, group: Group) -> Task[Left]:
        own = prompts[index * config.batch_size :][: config.batch_size]
        return Task(
            f"batch-{index:04d}-{group}",
            partial(_batch, subject, folder, group, index, own, warm),
            bar=group,
            steps=len(own),
            weight=len(own) * config.max_length,
            share=index,
            whole=lambda result: isinstance(result, Batch) and is_whole(folder, result),
        )

    passages = 2 * config.quality_passages
    loss = Task[Left]("held-out-loss", partial(held_out_loss.measure, subject), QUALITY, passages, passages)
    batches = -(-config.samples // config.batch_size)
    return [*(batch(index, group) for index in range(batches) for group in GROUPS), loss]


def _batch(
    subject: Subject,
    folder: Path,
    group: Group,
    index: int,
    prompts: Sequence[str],
    warm: Callable[[], None],
    step: Step,
) -> Batch:
    """Batch ``index`` of ``group``, after ``warm``. Raises OutOfMemory with advice."""
    with memory_guard("generating", batch_size=subject.config.batch_size, max_length=subject.config.max_length):
        warm()
        return make_batch(subject, folder, group, index, prompts)


def _warm_up(subject: Subject, prompts: Sequence[str]) -> None:
    """One short generation a group, so that the first batch's clock does not count what happens only once."""
    inputs = encode(subject.loaded, prompts, subject.config.max_length)
    for group in GROUPS:
        with session(subject, group):
            subject.loaded.model.generate(**inputs, **sampling(subject.loaded, 2, subject.config.temperature))  # type: ignore[operator]
