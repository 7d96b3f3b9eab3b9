"""Running an experiment: load, discover, generate and verify both groups, measure the cost, write the results."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from okr.engines import prepare
from okr.engines.transformers import TransformersEngine
from okr.errors import InvalidConfig, InvalidTrace, OKRError
from okr.experiment.config import Resolved, RunConfig
from okr.experiment.identity import check_same_run, check_same_software, describe_run
from okr.experiment.prompts import read_prompts
from okr.experiment.results import Results
from okr.experiment.results_of import assemble
from okr.experiment.sampling import GROUPS, Subject
from okr.experiment.tasks import QUALITY, Task, finished, share, task_of, tasks, work
from okr.jobs.loading import load_placed
from okr.jobs.log import LogFile, log_to
from okr.jobs.merging import Parts, merge_leftover, part_path
from okr.jobs.processes import ALONE, Processes
from okr.jobs.store import JOURNAL, KEY, REPORT, RESULTS, TRACES, Journal, output_folder, write_atomically
from okr.loaders import Loaded
from okr.loaders.prompts import encode
from okr.routing import Key, Setting

log = logging.getLogger("okr")


class Progress(Protocol):
    """Who is told how a run goes."""

    def stage(self, text: str) -> None:
        """The run begins ``text``, of unknown length."""

    def total(self, task: str, count: int) -> None:
        """``task`` has ``count`` steps."""

    def advance(self, task: str, count: int = 1) -> None:
        """``count`` steps of ``task`` are done."""


@dataclass(frozen=True)
class Ready:
    """A model that was loaded and found fit for a run, and what the samples start from."""

    loaded: Loaded
    engine: TransformersEngine
    prompts: list[str]
    load_seconds: float

    def under(self, key: Key, resolved: Resolved) -> tuple[Subject, dict[str, Any]]:
        """What the experiment is done to, and the journal's header as this process sees the run."""
        subject = Subject(self.loaded, key, resolved.config, self.engine)
        header = describe_run(subject, resolved, self.engine.found, self.prompts) | {"load_seconds": self.load_seconds}
        encode(subject.loaded, self.prompts[:1], subject.config.max_length)  # refused before anything is written
        return subject, header


def run(resolved: Resolved, *, resume: bool, progress: Progress, processes: Processes = ALONE) -> Results:
    """Run or resume an experiment in its output folder and return what results.json holds.

    Of several ``processes`` this is the main one: it begins the run, does its share, merges what the others journal
    (they call :func:`assist`) and writes the results.

    Raises a subclass of OKRError for whatever can be put right by the user; until the model is loaded and found
    fit nothing is left behind.
    """
    config = resolved.config
    with ExitStack() as opened, _threads(config.threads):
        with processes.together():
            given = Key.load(config.key) if config.key is not None else None
            folder = opened.enter_context(output_folder(Path(config.output_dir), resume=resume))
            journal = opened.enter_context(Journal(folder / JOURNAL))
            logfile = opened.enter_context(log_to(folder / resolved.preset.log_file))
            progress.stage(f"loading {config.model}")
            ready = _prepare(config, processes)
            subject, header = ready.under(given or _own_key(folder, journal), resolved)
        fresh, shared = journal.header is None, False
        try:
            with processes.together():
                _begin(folder, journal, header, subject, logfile)
                left = _left(folder, journal, config, progress)
            processes.from_main((str(folder.absolute()), journal.header, left))
            with processes.together():
                shared = processes.count > 1  # others may finish something from here on
            _finish(subject, folder, journal, ready.prompts, left, processes, progress)
            progress.stage("writing results and report")
            return _write(folder, journal, config)
        except BaseException as error:
            log.info("stopped: %s", str(error) or type(error).__name__)
            if fresh and not shared and isinstance(error, OKRError) and not journal.records:
                _discard(folder, journal, resolved)
            raise


def assist(resolved: Resolved, processes: Processes) -> None:
    """Do this process's share of a run that another one leads (:func:`run`), in a journal beside the main one.

    Raises like :func:`run`; what was finished before stays.
    """
    config = resolved.config
    with ExitStack() as opened, _threads(config.threads):
        with processes.together():
            ready = _prepare(config, processes)
        with processes.together():
            pass  # the main process begins
        folder, header, left = processes.from_main(None)
        with processes.together():
            key = Key.load(config.key or _shared(Path(folder), header))
            subject, own = ready.under(key, resolved)
            check_same_software(header, own)
            check_same_run(Path(folder), header, own | {"environment": header["environment"]})
            part = opened.enter_context(Journal(part_path(Path(folder), processes.rank)))
            part.begin({"kind": "process", "process": processes.rank, "of": processes.count})
        try:
            mine = share(left, processes.rank, processes.count)
            for record in work(subject, Path(folder), ready.prompts, mine, lambda: None):
                part.add(record | {"process": processes.rank})
        except OKRError as error:
            error.args = (f"{processes}: {error}",)
            raise


def _shared(folder: Path, header: dict[str, Any]) -> Path:
    """The key file of a run that made its own key."""
    if header["key_source"] != KEY:
        raise InvalidConfig(f"the run in {folder} is under the key of a file: every process needs --key")
    if not (folder / KEY).exists():
        raise InvalidConfig(
            f"{folder} of the main process cannot be seen here: --output-dir must name a folder that all machines share"
        )
    return folder / KEY


def _discard(folder: Path, journal: Journal, resolved: Resolved) -> None:
    """Take back everything that a run wrote which failed before its first batch was done."""
    journal.discard()
    shutil.rmtree(folder / TRACES, ignore_errors=True)
    (folder / resolved.preset.log_file).unlink(missing_ok=True)
    if resolved.config.key is None:
        (folder / KEY).unlink(missing_ok=True)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(config: RunConfig, processes: Processes) -> Ready:
    """Read the prompts, load the model; at least one router can be keyed and the setting suits every one that can."""
    prompts = read_prompts(config)
    started = time.perf_counter()
    loaded = load_placed(config, processes)
    seconds = time.perf_counter() - started
    engine = prepare(loaded.model)
    Setting.checked(config.epsilon, config.zone, config.strength)
    for site in engine.found:
        log.info("router %s: %s, top %d of %d experts %s", site.path, site.router_class, site.top_k, site.num_experts,
                 "" if site.keyable else f"(not keyed: {site.reason})")  # fmt: skip
    return Ready(loaded, engine, prompts, seconds)


def _own_key(folder: Path, journal: Journal) -> Key:
    """The key that an earlier part of this run made, or a fresh one, not saved yet."""
    if journal.header is not None and journal.header["key_source"] != KEY:
        raise InvalidConfig(
            f"the run in {folder} was made under key {journal.header['key_id']}: add --key with that key's file"
        )
    if (folder / KEY).exists():
        return Key.load(folder / KEY)
    if journal.header is not None:
        raise InvalidConfig(f"{folder / KEY} is gone: the run in {folder} cannot be resumed without it")
    return Key.generate()


def _begin(folder: Path, journal: Journal, header: dict[str, Any], subject: Subject, logfile: LogFile) -> None:
    """Write the journal's header, or check that it is this run's and take in what processes of it left behind."""
    logfile.open()
    if journal.header is not None:
        check_same_run(folder, journal.header, header)
        merge_leftover(folder, journal)
        return
    if subject.config.key is None and not (folder / KEY).exists():
        subject.key.save(folder / KEY)
        log.info("made a fresh key %s and saved it in %s", subject.key.id, folder / KEY)
    try:
        (folder / TRACES).mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidConfig(f"cannot write {folder / TRACES}: {error.strerror}") from error
    for note in header["notes"]:
        log.info("note: %s", note)
    journal.begin(header)


def _left(folder: Path, journal: Journal, config: RunConfig, progress: Progress) -> list[Task]:
    """The tasks that are not finished; ``progress`` hears of all and of those that are."""
    done = finished(folder, config, journal.records)
    for group in GROUPS:
        progress.total(group, config.samples)
    progress.total(QUALITY, 2 * config.quality_passages)
    for record in done.values():
        _advance(record, progress)
    return [task for task in tasks(config) if task not in done]


def _advance(record: dict[str, Any], progress: Progress) -> None:
    if record["kind"] == QUALITY:
        progress.advance(QUALITY, len(record["keyed"]) + len(record["unkeyed"]))
    else:
        progress.advance(record["group"], len(record["samples"]))


def _finish(
    subject: Subject,
    folder: Path,
    journal: Journal,
    prompts: Sequence[str],
    left: Sequence[Task],
    processes: Processes,
    progress: Progress,
) -> None:
    """Do this process's share of what is left while merging what the others journal, then wait for the rest."""
    config, missing = subject.config, set(left)
    parts = Parts(folder, journal, processes.count)

    def merged(record: dict[str, Any]) -> None:
        missing.discard(task_of(record, config))
        log.info("process %d: %s is done", record["process"], _name(record))
        _advance(record, progress)

    own = share(left, processes.rank, processes.count)
    for record in work(subject, folder, prompts, own, lambda: progress.advance(QUALITY)):
        journal.add(record)
        missing.discard(task_of(record, config))
        if record["kind"] != QUALITY:  # whose bar has moved passage by passage
            _advance(record, progress)
        log.info("%s is done", _name(record))
        for other in parts.collect():
            merged(other)
    parts.wait(missing, merged)
    parts.remove()


def _name(record: dict[str, Any]) -> str:
    if record["kind"] == QUALITY:
        return "the held-out loss"
    return f"batch {record['index']} of the {record['group']} group"


def _write(folder: Path, journal: Journal, config: RunConfig) -> Results:
    from okr.experiment.report import render  # matplotlib takes a second to import

    assert journal.header is not None
    done = finished(folder, config, journal.records)
    try:
        *batches, measured = [done[task] for task in tasks(config)]
        results = assemble(folder, journal.header, batches, measured)
    except (KeyError, InvalidTrace) as error:
        raise InvalidConfig(f"the traces in {folder} changed during the run ({error}): add --resume") from None
    write_atomically(folder / RESULTS, results.to_json())
    write_atomically(folder / REPORT, render(results))
    log.info("finished: %s", results.summary.model_dump_json())
    return results
