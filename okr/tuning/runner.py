"""Measuring a sweep of settings: prepare, share, work, assemble."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

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
from okr.tuning.measuring import check_length, measure, measure_traces, unkeyed_losses
from okr.tuning.sweep import Calibration, Measured, Sweep, Target, TraceProof

Left: TypeAlias = Measured | TraceProof
"""What a task leaves: all that is measured in the first dtype, or the traces in another."""

TASKS, CALIBRATION, PLOT = "tasks", "calibration.json", "calibration.svg"


class _Model:
    """The model of a sweep, in one dtype at a time. ``placements`` are those of its dtypes, in their order."""

    def __init__(self, placements: Sequence[Placement], processes: Processes, progress: Progress) -> None:
        self.placements, self.processes, self.progress = placements, processes, progress
        self._place: int | None = None
        self._loaded: Loaded | None = None

    def loaded(self, place: int) -> Loaded:
        """The model in dtype number ``place``. The one before is let go of first."""
        if self._loaded is None or self._place != place:
            placement = self.placements[place]
            self._loaded = None
            if place == 0:
                self.progress.stage(f"loading {placement.model}")
            self._place, self._loaded = place, load_placed(placement, self.processes)
        return self._loaded


def calibrate(
    sweep: Sweep,
    target: Target,
    placements: Sequence[Placement],
    texts: Sequence[str],
    folder: Path,
    *,
    resume: bool,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
) -> Calibration | None:
    """Measure every setting of ``sweep``, or go on with it, in ``folder``, and find those that reach ``target``.
    ``placements`` says where the model goes, once for each dtype of the sweep.

    Every process calls this; the main one returns what calibration.json holds, the others None. Raises InvalidConfig
    where the folder holds another sweep, or cannot be written.
    """
    store = Store[Left](folder / TASKS, Left, processes.rank)
    plan = json.loads(sweep.model_dump_json())  # infinity as a word
    with ExitStack() as opened:
        model = _Model(placements, processes, progress)
        with processes.together():
            if processes.main:
                _check(folder, store, plan, resume)
                opened.enter_context(writable_folder(folder))
                opened.enter_context(store.locked())
            check_length(model.loaded(0), sweep, texts)
        with processes.together():
            if processes.main and store.plan() is None:
                store.begin(plan)
        if not processes.main:
            opened.enter_context(store.locked())
        try:
            records = work(_tasks(sweep, model, texts), store, progress, processes)
        except OKRError:
            if processes.count == 1 and not store.records:
                store.discard()
            raise
        if not processes.main:
            return None
        left = [record.result for record in records if record.result is not None]
        return _write(Calibration.of(sweep, target, _together(left, len(sweep.settings))), folder)


def _together(left: Sequence[Left], settings: int) -> list[Measured]:
    """What was measured for each of ``settings`` settings, with the traces in all dtypes."""
    measured = [result for result in left if isinstance(result, Measured)]
    others = [result for result in left if isinstance(result, TraceProof)]
    return [
        line.model_copy(update={"traces": (*line.traces, *others[number::settings])})
        for number, line in enumerate(measured)
    ]


def _check(folder: Path, store: Store[Left], plan: dict[str, object], resume: bool) -> None:
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


def _tasks(sweep: Sweep, model: _Model, texts: Sequence[str]) -> list[Task[Left]]:
    """One task a setting, dtype by dtype."""
    names = [f"{index:03d}-{zone}-{epsilon:g}-{strength:g}" for index, (zone, epsilon, strength) in
             enumerate(sweep.settings)]  # fmt: skip
    unkeyed = cache(lambda: unkeyed_losses(model.loaded(0), texts))

    def measured(index: int, step: Step) -> Left:
        return measure(model.loaded(0), sweep, index, texts, unkeyed(), step)

    def proven(place: int, index: int, step: Step) -> Left:
        return measure_traces(model.loaded(place), sweep, index, texts, step)

    first = [
        Task(name, partial(measured, index), bar="settings measured", steps=2 * sweep.keys, weight=4.0)
        for index, name in enumerate(names)
    ]
    others = [
        Task(f"{dtype}/{name}", partial(proven, place, index), bar=f"traces in {dtype}", steps=sweep.keys)
        for place, dtype in list(enumerate(sweep.dtypes))[1:]
        for index, name in enumerate(names)
    ]
    return [*first, *others]


def _write(done: Calibration, folder: Path) -> Calibration:
    from okr.tuning.plot import calibration_plot  # matplotlib takes a second to import

    write_atomically(folder / CALIBRATION, done.model_dump_json(indent=2) + "\n")
    write_atomically(folder / PLOT, calibration_plot(done))
    return done
