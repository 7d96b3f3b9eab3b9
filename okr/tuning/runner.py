"""Measuring a sweep of settings: prepare, share, work, assemble."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

from okr.errors import InvalidConfig, OKRError
from okr.jobs.folders import writable_folder, write_atomically
from okr.jobs.loading import load_placed
from okr.jobs.placement import Placement
from okr.jobs.processes import ALONE, Processes
from okr.jobs.progress import SILENT, Progress
from okr.jobs.store import PLAN, Store
from okr.jobs.tasks import Step, Task
from okr.jobs.working import work
from okr.loaders import Loaded
from okr.tuning.sweep import Calibration, Measured, Sweep, check_length, measure, unkeyed_losses

TASKS, CALIBRATION, PLOT = "tasks", "calibration.json", "calibration.svg"


def calibrate(
    sweep: Sweep,
    placement: Placement,
    texts: Sequence[str],
    folder: Path,
    *,
    resume: bool,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
) -> Calibration | None:
    """Measure every setting of ``sweep``, or go on with it, in ``folder``. Every process calls this; the main one
    returns what calibration.json holds, the others None.

    Raises InvalidConfig where the folder holds another sweep, or cannot be written.
    """
    store = Store[Measured](folder / TASKS, Measured, processes.rank)
    plan = json.loads(sweep.model_dump_json())  # infinity as a word
    with ExitStack() as opened:
        with processes.together():
            if processes.main:
                _check(folder, store, plan, resume)
                opened.enter_context(writable_folder(folder))
                opened.enter_context(store.locked())
            progress.stage(f"loading {placement.model}")
            loaded = load_placed(placement, processes)
            check_length(loaded, sweep, texts)
        with processes.together():
            if processes.main and store.plan() is None:
                store.begin(plan)
        if not processes.main:
            opened.enter_context(store.locked())
        try:
            records = work(_tasks(sweep, loaded, texts), store, progress, processes)
        except OKRError:
            if processes.count == 1 and not store.records:
                store.discard()
            raise
        if not processes.main:
            return None
        done = Calibration(sweep=sweep, measured=tuple(record.result for record in records if record.result))
        return _write(done, folder)


def _check(folder: Path, store: Store[Measured], plan: dict[str, object], resume: bool) -> None:
    for path in (folder / CALIBRATION, store.folder / PLAN):
        if path.exists() and not resume:
            raise InvalidConfig(f"{path} exists: add --resume to go on with it, or choose another --output-dir")
    begun = store.plan()
    if begun is None and (folder / CALIBRATION).exists():
        raise InvalidConfig(f"there is no sweep to go on with in {folder}: it has no {TASKS}/{PLAN}")
    if begun not in (None, plan):
        raise InvalidConfig(
            f"the sweep in {folder} was made with other options, another model or other text: it cannot go on"
        )


def _tasks(sweep: Sweep, loaded: Loaded, texts: Sequence[str]) -> list[Task[Measured]]:
    """One task a setting."""
    unkeyed = cache(partial(unkeyed_losses, loaded, texts))

    def measured(index: int, step: Step) -> Measured:
        return measure(loaded, sweep, index, texts, unkeyed(), step)

    return [
        Task(
            f"{index:03d}-{zone}-{epsilon:g}-{strength:g}",
            partial(measured, index),
            bar="settings measured",
            steps=2 * sweep.keys,
        )
        for index, (zone, epsilon, strength) in enumerate(sweep.settings)
    ]


def _write(done: Calibration, folder: Path) -> Calibration:
    from okr.tuning.plot import calibration_plot  # matplotlib takes a second to import

    write_atomically(folder / CALIBRATION, done.model_dump_json(indent=2) + "\n")
    write_atomically(folder / PLOT, calibration_plot(done))
    return done
