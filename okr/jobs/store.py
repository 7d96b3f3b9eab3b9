"""The tasks of a job that are done, in a folder that survives a kill at every write and that processes share.

The folder holds the job's plan (plan.json) and one file a finished task, each put in place whole. A job that was killed
goes on with the tasks that have no file. Every process of a job writes its own tasks and reads those of the others, so
nothing has to be merged; locks keep two jobs from writing one folder.
"""

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Self

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from okr import files
from okr.errors import InvalidConfig, ProcessFailed
from okr.jobs.folders import write_atomically
from okr.jobs.tasks import NotAvailable, Record, Result, Task

PLAN = "plan.json"
PATIENCE = 600.0  # seconds without a word from any process before a job gives up ...
LONGEST = 5.0  # ... or this many times what its longest task took, whichever is more
PAUSE = 0.2  # seconds between two looks


class Store(Generic[Result]):
    """The plan and the records of a job in ``folder``, for the process of ``rank``. ``result`` is the type of what
    its tasks leave: a pydantic model, or a union of several.

    ``records`` holds what this process knows by now: what it kept, and what it has read.
    """

    def __init__(self, folder: Path, result: Any, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.records: dict[str, Record[Result]] = {}
        self.order: list[str] = []
        """Names of all tasks of the job."""
        self.elsewhere: set[str] = set()
        """Names of the tasks that other processes are at."""
        self.heard: Callable[[Record[Result]], None] = lambda record: None
        """Told of every record that another process has kept."""
        self._adapter: TypeAdapter[Record[Result]] = TypeAdapter(Record[result])

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Nobody else writes to the folder as this process, for the length of a block. The main process (rank 0) locks
        before the others do.

        Raises InvalidConfig where another job, or a process of an earlier start, is still at work. A file system
        without locks keeps nobody apart.
        """
        lock = FileLock(self.folder / f".lock-{self.rank}", timeout=0)
        try:
            self.folder.mkdir(exist_ok=True)
            with contextlib.suppress(NotImplementedError):  # filelock's word for a file system without locks
                lock.acquire()
        except Timeout:
            raise InvalidConfig(f"another run is writing to {self.folder.parent}") from None
        except OSError as error:
            raise InvalidConfig(f"cannot write {self.folder}: {error.strerror}") from None
        try:
            if self.rank == 0:
                for other in self.folder.glob(".lock-[1-9]*"):
                    with Store[Result](self.folder, Any, int(other.name.removeprefix(".lock-"))).locked():
                        pass
            yield self
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            with contextlib.suppress(OSError):  # not empty
                self.folder.rmdir()

    def plan(self, entries: Iterable[str] = ()) -> dict[str, Any] | None:
        """What :meth:`begin` wrote; None before. Raises InvalidConfig where it is damaged or lacks ``entries``."""
        path = self.folder / PLAN
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            found = None
        if not isinstance(found, dict) or not found.keys() >= set(entries):
            raise self.damaged()
        return found

    def damaged(self) -> InvalidConfig:
        """The error of a plan that cannot be used."""
        return InvalidConfig(f"{self.folder / PLAN} is damaged: remove {self.folder} to begin again")

    def begin(self, plan: dict[str, Any]) -> None:
        """Write the plan. Raises InvalidConfig where it cannot be written."""
        write_atomically(self.folder / PLAN, json.dumps(plan, ensure_ascii=False, allow_nan=False, indent=1) + "\n")

    def discard(self) -> None:
        """Take back the plan."""
        (self.folder / PLAN).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """The file of a task."""
        return self.folder / f"{name}.json"

    def left(self, tasks: Sequence[Task[Result]]) -> list[str]:
        """The names of the tasks that are not done, whose files are removed; those that are done are read."""
        files.remove_torn(self.folder)
        done = {task.name: record for task in tasks if (record := self._done(task)) is not None}
        self.records |= done
        names = [task.name for task in tasks if task.name not in done]
        for name in names:
            self.path(name).unlink(missing_ok=True)
        return names

    def share(self, order: Sequence[str], left: Collection[str], own: Collection[str]) -> None:
        """Know what the tasks of the job are in ``order``, which of them are ``left``, and which of those this
        process does. What an earlier start did is read, where it is not known yet."""
        self.order, self.elsewhere = list(order), set(left) - set(own)
        for name in self.order:
            if name not in self.records and name not in left and (found := self.read(name)) is not None:
                self.records[name] = found

    def _done(self, task: Task[Result]) -> Record[Result] | None:
        """The record of a task that is done, with the same inputs, and whole; anything else counts for nothing."""
        found = self.read(task.name)
        if found is None or found.status != "done" or found.inputs != dict(task.inputs) or found.result is None:
            return None
        return found if task.whole(found.result) else None

    def read(self, name: str) -> Record[Result] | None:
        """The record of a task that has ended, from its file; None where there is none, or one that is damaged."""
        try:  # opened anew each time: a network file system then shows what is there
            found = self._adapter.validate_json(self.path(name).read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.name == name else None

    def keep(self, record: Record[Result]) -> None:
        """Remember a record and put its file in place. Raises InvalidConfig, from OSError, where that cannot be
        written; the record then is remembered all the same."""
        self.records[record.name] = record
        path = self.path(record.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidConfig(f"cannot write {path}: {error.strerror}") from error
        document = record.model_dump(mode="json")  # json keeps infinite numbers, which pydantic would write as null
        write_atomically(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")

    def result(self, name: str) -> Result:
        """What task ``name`` left; where another process is at it, once it has ended. Raises NotAvailable with its
        reason where it was not done."""
        record = self._known(name)
        if record is None or record.result is None:
            raise NotAvailable(f"needs {name}: {record.reason if record else 'which was not run'}")
        return record.result

    def results(self, prefix: str) -> list[Result]:
        """What the tasks whose names begin with ``prefix`` left, in the order of the job, those that failed left out.
        Raises NotAvailable where there is none."""
        known = [self._known(name) for name in self.order if name.startswith(prefix)]
        matching = [record for record in known if record is not None]
        done = [record.result for record in matching if record.result is not None]
        if not done:
            raise NotAvailable(f"needs {prefix}...: {matching[0].reason if matching else 'which was not run'}")
        return done

    def _known(self, name: str) -> Record[Result] | None:
        """The record of a task: of this process, of an earlier start, or of another process once it has ended."""
        self.wait([name])
        return self.records.get(name)

    def look(self) -> bool:
        """Read what other processes have kept since the last look; returns whether there is anything."""
        found = [record for name in sorted(self.elsewhere) if (record := self.read(name)) is not None]
        self.records |= {record.name: record for record in found}
        self.elsewhere -= {record.name for record in found}
        for record in found:
            self.heard(record)
        return bool(found)

    def wait(
        self,
        names: Iterable[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look until the tasks ``names`` that other processes are at have ended.

        Raises ProcessFailed when all processes have been silent for too long.
        """
        last, wanted = clock(), set(names)
        while wanted & self.elsewhere:
            if self.look():
                last = clock()
            elif clock() - last > (limit := self._limit()):
                raise ProcessFailed(
                    f"{len(self.elsewhere)} parts of the run are missing and no other process wrote anything for "
                    f"{limit / 60:.0f} minutes: one of them died or hangs; what is finished is kept, add --resume"
                )
            else:
                pause(PAUSE)

    def _limit(self) -> float:
        return max(PATIENCE, LONGEST * max((record.seconds for record in self.records.values()), default=0.0))
