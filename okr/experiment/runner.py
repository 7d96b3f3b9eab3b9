"""Running an experiment: prepare the model, share the plan among processes, work, assemble the results."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okr.engines import prepare as prepare_model
from okr.engines.transformers import TransformersEngine
from okr.errors import InvalidConfig, InvalidTrace, OKRError
from okr.experiment.config import Resolved
from okr.experiment.folder import RunFolder, run_store, shared_key
from okr.experiment.held_out_loss import Loss
from okr.experiment.identity import check_same_run, check_same_software, describe_run
from okr.experiment.layout import REPORT, RESULTS
from okr.experiment.prompts import read_prompts
from okr.experiment.results import Results
from okr.experiment.results_of import assemble
from okr.experiment.sampling import Batch, Subject
from okr.experiment.tasks import Left, tasks_of
from okr.jobs.folders import write_atomically
from okr.jobs.loading import load_placed
from okr.jobs.processes import ALONE, Processes
from okr.jobs.progress import SILENT, Progress
from okr.jobs.store import Store
from okr.jobs.tasks import Record
from okr.jobs.threads import threads
from okr.jobs.working import work
from okr.loaders import Loaded
from okr.loaders.prompts import encode
from okr.routing import Key, Setting

log = logging.getLogger("okr")


@dataclass(frozen=True)
class Ready:
    """A model that was loaded and found fit for a run, and what the samples start from."""

    resolved: Resolved
    loaded: Loaded
    engine: TransformersEngine
    prompts: list[str]
    load_seconds: float

    def under(self, key: Key) -> tuple[Subject, dict[str, Any]]:
        """What the experiment is done to, and the plan of the run as this process sees it."""
        subject = Subject(self.loaded, key, self.resolved.config, self.engine)
        plan = describe_run(subject, self.resolved, self.engine.found, self.prompts)
        encode(subject.loaded, self.prompts[:1], subject.config.max_length)  # refused before anything is written
        return subject, plan | {"load_seconds": self.load_seconds}


@dataclass(frozen=True)
class Shared:
    """What all processes of a run agree on, and this one's store."""

    folder: Path
    plan: dict[str, Any]
    subject: Subject
    store: Store[Left]


def run(
    resolved: Resolved,
    *,
    resume: bool,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
    prepared: Callable[[], Ready] | None = None,
) -> Results | None:
    """Run or resume an experiment in its output folder. Every process of the run calls this; the main one returns what
    results.json holds, the others None. ``prepared`` gives the model, where something else needs it as well.

    Raises a subclass of OKRError for whatever can be put right by the user; until the model is loaded and found fit
    nothing is left behind.
    """
    with ExitStack() as opened, threads(resolved.config.threads):
        with processes.together():
            folder = opened.enter_context(RunFolder.opened(resolved, resume=resume)) if processes.main else None
            progress.stage(f"loading {resolved.config.model}")
            ready = prepared() if prepared is not None else prepare(resolved, processes)
            own = ready.under(folder.key()) if folder is not None else None
        with _failure_taken_back(folder, processes):
            shared = opened.enter_context(_share(ready, folder, own, processes))
            tasks = tasks_of(shared.subject, shared.folder, ready.prompts)
            with _named(processes):
                records = work(tasks, shared.store, progress, processes)
            if folder is None:
                return None
            progress.stage("writing results and report")
            return _write(shared, records)


def prepare(resolved: Resolved, processes: Processes) -> Ready:
    """Read the prompts, load the model; at least one router can be keyed and the setting suits every one that can."""
    config = resolved.config
    prompts = read_prompts(config)
    started = time.perf_counter()
    loaded = load_placed(config, processes)
    seconds = time.perf_counter() - started
    engine = prepare_model(loaded.model)
    Setting.checked(config.epsilon, config.zone, config.strength)
    for site in engine.found:
        log.info("router %s: %s, top %d of %d experts %s", site.path, site.router_class, site.top_k, site.num_experts,
                 "" if site.keyable else f"(not keyed: {site.reason})")  # fmt: skip
    return Ready(resolved, loaded, engine, prompts, seconds)


@contextmanager
def _share(
    ready: Ready, folder: RunFolder | None, own: tuple[Subject, dict[str, Any]] | None, processes: Processes
) -> Iterator[Shared]:
    """The main process, which has the ``folder`` and its ``own`` subject and plan, writes the plan or compares itself
    with that of an earlier start; the others compare themselves with it and open their stores."""
    agreed: tuple[str, dict[str, Any]] | None = None
    with processes.together():
        if folder is not None and own is not None:
            agreed = str(folder.path.absolute()), folder.begin(own[1], own[0].key)
    path, plan = processes.from_main(agreed)
    with ExitStack() as opened:
        with processes.together():
            if folder is not None and own is not None:
                shared = Shared(folder.path, plan, own[0], folder.store)
            else:
                shared = opened.enter_context(_joined(ready, Path(path), plan, processes))
        yield shared


@contextmanager
def _joined(ready: Ready, folder: Path, plan: dict[str, Any], processes: Processes) -> Iterator[Shared]:
    """A process beside the main one, once it has compared itself with the plan."""
    key = Key.load(ready.resolved.config.key or shared_key(folder, plan))
    subject, own = ready.under(key)
    check_same_software(plan, own)
    check_same_run(folder, plan, own | {"environment": plan["environment"]})
    with run_store(folder, processes.rank).locked() as store:
        yield Shared(folder, plan, subject, store)


@contextmanager
def _named(processes: Processes) -> Iterator[None]:
    """Errors of a process beside the main one say which it is."""
    try:
        yield
    except OKRError as error:
        if not processes.main:
            error.args = (f"{processes}: {error}",)
        raise


@contextmanager
def _failure_taken_back(folder: RunFolder | None, processes: Processes) -> Iterator[None]:
    """A run that fails before its first task is done leaves nothing behind, unless others may have done something."""
    try:
        yield
    except BaseException as error:
        log.info("stopped: %s", str(error) or type(error).__name__)
        if folder is not None and folder.plan is None and processes.count == 1 and isinstance(error, OKRError):
            folder.discard()
        raise


def _write(shared: Shared, records: Sequence[Record[Left]]) -> Results:
    from okr.experiment.report import render  # matplotlib takes a second to import

    done = [record.result for record in records]
    (measured,) = (result for result in done if isinstance(result, Loss))
    try:
        results = assemble(shared.folder, shared.plan, [r for r in done if isinstance(r, Batch)], measured)
    except (KeyError, InvalidTrace) as error:
        raise InvalidConfig(f"the traces in {shared.folder} changed during the run ({error}): add --resume") from None
    write_atomically(shared.folder / RESULTS, results.to_json())
    write_atomically(shared.folder / REPORT, render(results))
    log.info("finished: %s", results.summary.model_dump_json())
    return results
