"""The output folder of a run: its key, its plan, its log, and how a run that failed early is taken back."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from okr import files
from okr.errors import InvalidConfig
from okr.experiment.config import Resolved
from okr.experiment.identity import check_same_run
from okr.experiment.layout import KEY, TASKS, TRACES
from okr.experiment.tasks import Left
from okr.jobs.folders import writable_folder
from okr.jobs.log import LogFile, log_to
from okr.jobs.store import PLAN, Store
from okr.routing import Key

PLANNED = ("config", "config_sources", "key_id", "key_source", "prompts", "model", "sites", "environment", "notes")

log = logging.getLogger("okr")


def run_store(folder: Path, rank: int = 0) -> Store[Left]:
    """The store of a run in ``folder``."""
    return Store(folder / TASKS, Left, rank)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run as its main process holds it. ``plan`` is what an earlier start wrote; None: the first."""

    path: Path
    store: Store[Left]
    plan: dict[str, Any] | None
    log: LogFile
    given: Key | None
    """The key of a file that the user named; None: the run makes its own."""

    @classmethod
    @contextmanager
    def opened(cls, resolved: Resolved, *, resume: bool) -> Iterator[Self]:
        """Create the folder, or open it to resume. Folders made here vanish again if they are left empty.

        Raises InvalidConfig when the folder cannot be written, or holds something and ``resume`` is False.
        """
        path = Path(resolved.config.output_dir)
        given = Key.load(resolved.config.key) if resolved.config.key is not None else None
        with ExitStack() as entered:
            entered.enter_context(writable_folder(path))
            _check(path, resume)
            store = entered.enter_context(run_store(path).locked())
            logfile = entered.enter_context(log_to(path / resolved.preset.log_file))
            yield cls(path, store, store.plan(PLANNED), logfile, given)

    def key(self) -> Key:
        """The key of the run: the user's, the one that an earlier start made, or a fresh one, not saved yet."""
        if self.given is not None:
            return self.given
        if self.plan is not None and self.plan["key_source"] != KEY:
            raise InvalidConfig(
                f"the run in {self.path} was made under key {self.plan['key_id']}: add --key with that key's file"
            )
        if (self.path / KEY).exists():
            return Key.load(self.path / KEY)
        if self.plan is not None:
            raise InvalidConfig(f"{self.path / KEY} is gone: the run in {self.path} cannot be resumed without it")
        return Key.generate()

    def begin(self, plan: dict[str, Any], key: Key) -> dict[str, Any]:
        """Save a fresh key and write the plan, or compare ``plan`` with that of the earlier start. Returns the plan
        that holds. Raises InvalidConfig where that is impossible, or the runs differ."""
        self.log.open()
        if self.plan is not None:
            check_same_run(self.path, self.plan, plan)
            files.remove_torn(self.path / TRACES)
            return self.plan
        if self.given is None and not (self.path / KEY).exists():
            key.save(self.path / KEY)
            log.info("made a fresh key %s and saved it in %s", key.id, self.path / KEY)
        try:
            (self.path / TRACES).mkdir(exist_ok=True)
        except OSError as error:
            raise InvalidConfig(f"cannot write {self.path / TRACES}: {error.strerror}") from error
        for note in plan["notes"]:
            log.info("note: %s", note)
        self.store.begin(plan)
        return plan

    def discard(self) -> None:
        """Take back everything that a first start wrote, unless one of its tasks is done."""
        if self.store.records:
            return
        self.store.discard()
        shutil.rmtree(self.path / TRACES, ignore_errors=True)
        self.log.path.unlink(missing_ok=True)
        if self.given is None:
            (self.path / KEY).unlink(missing_ok=True)


def _check(path: Path, resume: bool) -> None:
    occupied = any(path.iterdir())
    if occupied and not resume:
        raise InvalidConfig(
            f"the output folder {path} is not empty: add --resume to continue the run in it, or choose another one"
        )
    if occupied and not (path / TASKS / PLAN).exists() and not (path / KEY).exists():
        raise InvalidConfig(f"there is no run to resume in {path}: it has no {TASKS}/{PLAN}")


def shared_key(folder: Path, plan: dict[str, Any]) -> Path:
    """The key file of a run that made its own key, as another process of the run sees it. Raises InvalidConfig."""
    if plan["key_source"] != KEY:
        raise InvalidConfig(f"the run in {folder} is under the key of a file: every process needs --key")
    if not (folder / KEY).exists():
        raise InvalidConfig(
            f"{folder} of the main process cannot be seen here: --output-dir must name a folder that all machines share"
        )
    return folder / KEY
