"""Doing the tasks of a job: each once, kept as soon as it is done, shared among the job's processes."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from okr.errors import InvalidConfig, OKRError
from okr.jobs.processes import ALONE, Processes
from okr.jobs.progress import Progress
from okr.jobs.store import Store
from okr.jobs.tasks import NotAvailable, Record, Result, Status, Task, deal

log = logging.getLogger("okr")


def work(
    tasks: Sequence[Task[Result]],
    store: Store[Result],
    progress: Progress,
    processes: Processes = ALONE,
    *,
    keep_going: bool = False,
) -> list[Record[Result]]:
    """Do what is left of ``tasks`` in their order, this process's share of it; returns the records it then knows.

    A task may read what earlier tasks left (:meth:`Store.result`). The main process waits for the others and returns
    the records of all tasks. A task that fails ends the job with its error; with ``keep_going`` its record says why it
    failed, tasks that need it fail with the same reason, and the others go on.

    Raises ProcessFailed where other processes are silent for too long.
    """
    with processes.together():
        left = store.left(tasks) if processes.main else []
    names = set(processes.from_main(left))
    waiting = [task for task in tasks if task.name in names]
    own = deal(waiting, processes.rank, processes.count)
    by_name = {task.name: task for task in tasks}
    store.share(list(by_name), names, {task.name for task in own})
    _tell(tasks, waiting, progress)

    def heard(record: Record[Result]) -> None:
        task = by_name[record.name]
        progress.advance(task.bar, task.steps, task.weight)
        log.info("process %d: %s is %s", record.process, record.name, record.status)

    store.heard = heard
    for task in own:
        record = _done(task, progress, processes.rank, keep_going)
        _keep(store, record, keep_going)
        log.info("%s is %s", record.name, record.status)
        if processes.main:
            store.look()
    if processes.main:
        store.wait(list(store.elsewhere))
    return [store.records[name] for name in store.order if name in store.records]


def _tell(tasks: Sequence[Task[Any]], left: Sequence[Task[Any]], progress: Progress) -> None:
    """Every bar with its steps, and how far an earlier start came."""
    steps, missing = Counter[str](), Counter[str]()
    for task in tasks:
        steps[task.bar] += task.steps
    for task in left:
        missing[task.bar] += task.steps
    progress.expect(sum(task.weight for task in left))
    for bar, count in steps.items():
        progress.total(bar, count)
        progress.advance(bar, count - missing[bar])


def _done(task: Task[Result], progress: Progress, rank: int, keep_going: bool) -> Record[Result]:
    """Do a task. What it raises is raised, or with ``keep_going`` the reason in its record."""
    started, taken = time.perf_counter(), 0

    def step(count: int = 1) -> None:
        nonlocal taken
        taken += count
        progress.advance(task.bar, count, task.weight * count / task.steps)

    result, reason = None, ""
    status: Status = "done"
    try:
        result = task.work(step)
    except Exception as error:
        if not keep_going:
            raise
        status = "not available" if isinstance(error, NotAvailable) else "failed"
        reason = _one_line(error)
        if status == "failed":  # whatever it is, it is this task's alone; the log has the whole story
            log.warning("%s failed: %s", task.name, reason, exc_info=not isinstance(error, OKRError))
    step(task.steps - taken)
    seconds = time.perf_counter() - started
    return Record(
        name=task.name, status=status, reason=reason, inputs=dict(task.inputs), seconds=seconds, process=rank,
        result=result,
    )  # fmt: skip


def _keep(store: Store[Result], record: Record[Result], keep_going: bool) -> None:
    """Keep a record; with ``keep_going`` a task whose record cannot be written has failed."""
    try:
        store.keep(record)
    except InvalidConfig as error:
        if not keep_going:
            raise
        if record.status == "done":
            reason = f"its record could not be kept: {_one_line(error)}"
            store.records[record.name] = record.model_copy(
                update={"status": "failed", "reason": reason, "result": None}
            )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OKRError) and text:
        return text[:500]
    return f"{type(error).__name__}: {text}"[:500]
