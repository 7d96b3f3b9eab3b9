"""The journals of a run's other processes, merged into the main one as they grow."""

import json
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from okr.errors import InvalidConfig, ProcessFailed
from okr.jobs.store import Journal

PATIENCE = 600.0  # seconds without a word from any process before a run gives up ...
LONGEST = 5.0  # ... or this many times what its longest batch took, whichever is more
PAUSE = 0.2  # seconds between two looks


def part_path(folder: Path, rank: int) -> Path:
    """The journal of process ``rank`` (1 or more) of a run in ``folder``."""
    return folder / f"journal-{rank}.jsonl"


def merge_leftover(folder: Path, journal: Journal) -> None:
    """Take what the processes of an earlier start left behind into the journal, whatever their number was.

    Raises InvalidConfig where one of them is still at work.
    """
    for path in sorted(folder.glob("journal-*.jsonl")):
        with Journal(path) as part:
            for record in part.records:
                journal.add(record)
        path.unlink(missing_ok=True)


class Parts:
    """What the processes 1 to ``count`` - 1 of a run write, read while they write it."""

    def __init__(self, folder: Path, journal: Journal, count: int) -> None:
        self._journal = journal
        self._read = dict.fromkeys((part_path(folder, rank) for rank in range(1, count)), 0)

    def collect(self) -> list[dict[str, Any]]:
        """Records written since the last look; they are in the main journal when this returns."""
        found = [record for path in self._read for record in self._new(path)]
        for record in found:
            self._journal.add(record)
        return found

    def _new(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            with path.open("rb") as file:  # opened anew each time: a network file system then shows what is there
                file.seek(self._read[path])
                content = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
        first, whole = self._read[path] == 0, content[: content.rfind(b"\n") + 1]
        self._read[path] += len(whole)
        for line in whole.splitlines()[first:]:  # the first line says whose journal it is
            yield json.loads(line)

    def wait(
        self,
        missing: Collection[object],
        heard: Callable[[dict[str, Any]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Collect until ``missing`` is empty; ``heard`` is told of every record, and takes from ``missing``.

        Raises ProcessFailed when all have been silent for too long.
        """
        last = clock()
        while missing:
            found = self.collect()
            for record in found:
                heard(record)
            if found:
                last = clock()
            elif clock() - last > (limit := self._limit()):
                raise ProcessFailed(
                    f"{len(missing)} parts of the run are missing and no other process wrote anything for "
                    f"{limit / 60:.0f} minutes: one of them died or hangs; what is finished is kept, add --resume"
                )
            else:
                pause(PAUSE)

    def _limit(self) -> float:
        took = [sum(r["seconds"].values()) for r in self._journal.records if r["kind"] == "batch"]
        return max(PATIENCE, LONGEST * max(took, default=0.0))

    def remove(self) -> None:
        """Remove the processes' journals once all they held is in the results."""
        for path in self._read:
            path.unlink(missing_ok=True)
