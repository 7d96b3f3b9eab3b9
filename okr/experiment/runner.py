"""Running an experiment: load, discover, generate and verify both groups, measure the cost, write the results."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import convert_file_size_to_int, get_max_memory

from okr.attach.engine import keyable_sites
from okr.discovery import RouterSite, discover
from okr.errors import InvalidConfig, InvalidTrace, OKRError
from okr.experiment import quality
from okr.experiment.assemble import assemble
from okr.experiment.config import Resolved, RunConfig
from okr.experiment.folder import JOURNAL, KEY, REPORT, RESULTS, TRACES, Journal, output_folder, write_atomically
from okr.experiment.header import check_same_run, describe_run
from okr.experiment.logfile import log_to
from okr.experiment.prompts import read_prompts
from okr.experiment.results import Results
from okr.experiment.sampling import (
    GROUPS,
    Group,
    Subject,
    encode,
    generation_arguments,
    is_whole,
    make_batch,
    session,
)
from okr.loaders import Loaded, load, memory_guard
from okr.routing import Key, check_setting

log = logging.getLogger("okr")


class Progress(Protocol):
    """Who is told how a run goes."""

    def stage(self, text: str) -> None:
        """The run begins ``text``, of unknown length."""

    def total(self, task: str, count: int) -> None:
        """``task`` has ``count`` steps."""

    def advance(self, task: str, count: int = 1) -> None:
        """``count`` steps of ``task`` are done."""


def run(resolved: Resolved, *, resume: bool, progress: Progress) -> Results:
    """Run or resume an experiment in its output folder and return what results.json holds.

    Raises a subclass of OKRError for whatever can be put right by the user; until the model is loaded and found
    fit nothing is left behind.
    """
    config = resolved.config
    prompts = read_prompts(config)
    key = Key.load(config.key) if config.key is not None else None
    with (
        output_folder(Path(config.output_dir), resume=resume) as folder,
        Journal(folder / JOURNAL) as journal,
        log_to(folder / resolved.preset.log_file) as logfile,
        _threads(config.threads),
    ):
        progress.stage(f"loading {config.model}")
        started = time.perf_counter()
        loaded = _load(config)
        seconds = time.perf_counter() - started
        sites = _check(loaded, config)
        key = key or _own_key(folder, journal)
        subject = Subject(loaded, key, config)
        header = describe_run(subject, resolved, sites, prompts) | {"load_seconds": seconds}
        encode(subject, prompts[:1])  # a max_length the model cannot hold is found out before anything is written
        logfile.open()
        fresh = journal.header is None
        try:
            _begin(folder, journal, header, key, config)
            _finish_batches(subject, folder, journal, prompts, progress)
            _finish_quality(subject, journal, progress)
            progress.stage("writing results and report")
            return _write(folder, journal, config)
        except BaseException as error:
            log.info("stopped: %s", str(error) or type(error).__name__)
            if fresh and isinstance(error, OKRError) and not journal.records:
                _discard(folder, journal, resolved)
            raise


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


def _load(config: RunConfig) -> Loaded:
    placed = {"cpu": None, "auto": "auto"}.get(config.device, config.device)
    cap = None
    if config.max_memory is not None and placed == "auto" and torch.cuda.is_available():
        cap = get_max_memory()  # what is free on every card and on the host: what the cap shuts out goes there
        cap[0] = min(cap[0], convert_file_size_to_int(config.max_memory.replace(" ", "")))
    return load(
        config.model,
        dtype=config.dtype,
        device_map=placed,
        max_memory=cap,  # type: ignore[arg-type]
        quantization=config.quantization,
        trust_remote_code=config.trust_remote_code,
    )


def _check(loaded: Loaded, config: RunConfig) -> list[RouterSite]:
    """All router sites; at least one can be keyed and the setting suits every one that can."""
    for site in keyable_sites(loaded.model):
        check_setting(site.top_k, site.num_experts, **config.setting())
    sites = discover(loaded.model)
    for site in sites:
        log.info("router %s: %s, top %d of %d experts %s", site.path, site.router_class, site.top_k, site.num_experts,
                 "" if site.keyable else f"(not keyed: {site.reason})")  # fmt: skip
    return sites


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


def _begin(folder: Path, journal: Journal, header: dict[str, Any], key: Key, config: RunConfig) -> None:
    """Write the journal's header, or check that it is this run's."""
    if journal.header is not None:
        check_same_run(folder, journal.header, header)
        return
    if config.key is None and not (folder / KEY).exists():
        key.save(folder / KEY)
        log.info("made a fresh key %s and saved it in %s", key.id, folder / KEY)
    try:
        (folder / TRACES).mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidConfig(f"cannot write {folder / TRACES}: {error.strerror}") from None
    for note in header["notes"]:
        log.info("note: %s", note)
    journal.begin(header)


def _batches(config: RunConfig) -> list[tuple[int, Group]]:
    return [(index, group) for index in range(-(-config.samples // config.batch_size)) for group in GROUPS]


def _finish_batches(
    subject: Subject, folder: Path, journal: Journal, prompts: Sequence[str], progress: Progress
) -> None:
    config = subject.config
    done = _done(folder, journal)
    left = [batch for batch in _batches(config) if batch not in done]
    for group in GROUPS:
        progress.total(group, config.samples)
    for index, group in done:
        progress.advance(group, len(prompts[index * config.batch_size :][: config.batch_size]))
    with memory_guard("generating", batch_size=config.batch_size, max_length=config.max_length):
        if left:
            _warm_up(subject, prompts)
        for index, group in left:
            own = prompts[index * config.batch_size :][: config.batch_size]
            journal.add(make_batch(subject, folder, group, index, own))
            log.info("batch %d of the %s group is done", index, group)
            progress.advance(group, len(own))


def _done(folder: Path, journal: Journal) -> dict[tuple[int, Group], dict[str, Any]]:
    """The batches whose records and traces are whole; the last record of a batch counts."""
    records = {(record["index"], record["group"]): record for record in journal.records if record["kind"] == "batch"}
    return {batch: record for batch, record in records.items() if is_whole(folder, record)}


def _warm_up(subject: Subject, prompts: Sequence[str]) -> None:
    """One short generation a group, so that the first batch's clock does not count what happens only once."""
    inputs = encode(subject, prompts[: subject.config.batch_size])
    for group in GROUPS:
        with session(subject, group):
            subject.loaded.model.generate(**inputs, **generation_arguments(subject, 2))  # type: ignore[operator]


def _finish_quality(subject: Subject, journal: Journal, progress: Progress) -> None:
    count = 2 * subject.config.quality_passages
    progress.total("quality", count)
    if any(record["kind"] == "quality" for record in journal.records):
        progress.advance("quality", count)
        return
    started = time.perf_counter()
    with memory_guard("measuring the held-out loss", batch_size=1):
        record = quality.measure(subject, lambda: progress.advance("quality"))
    journal.add(record | {"seconds": time.perf_counter() - started})


def _write(folder: Path, journal: Journal, config: RunConfig) -> Results:
    from okr.experiment.report import render  # matplotlib takes a second to import

    assert journal.header is not None
    done = _done(folder, journal)
    measured = next(record for record in journal.records if record["kind"] == "quality")
    try:
        results = assemble(folder, journal.header, [done[batch] for batch in _batches(config)], measured)
    except (KeyError, InvalidTrace) as error:
        raise InvalidConfig(f"the traces in {folder} changed during the run ({error}): add --resume") from None
    write_atomically(folder / RESULTS, results.to_json())
    write_atomically(folder / REPORT, render(results))
    log.info("finished: %s", results.summary.model_dump_json())
    return results
