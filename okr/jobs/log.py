"""The log of a run: kept in memory until the run's folder holds something, then written to its file."""

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from okr.errors import InvalidConfig


class _Modest(logging.FileHandler):
    """A log file that says nothing where it cannot be written: on a full disk it is the results that matter."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Drop the record."""

    def close(self) -> None:
        """Close the file, whether or not its last lines can be written."""
        with contextlib.suppress(OSError):
            super().close()


class LogFile:
    """A log that reaches its file once :meth:`open` is called."""

    def __init__(self, path: Path, memory: MemoryHandler) -> None:
        self.path, self._memory = path, memory

    def open(self) -> None:
        """Append what was logged so far to the file, and everything from now on. Raises InvalidConfig."""
        try:
            target = _Modest(self.path, encoding="utf-8")
        except OSError as error:
            raise InvalidConfig(f"cannot write {self.path}: {error.strerror}") from error
        formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        target.setFormatter(formatter)
        self._memory.setTarget(target)
        self._memory.flush()
        self._memory.capacity = 0  # from here on every record is written at once

    def close(self) -> None:
        """Close the file; what was never opened is forgotten."""
        target = self._memory.target
        self._memory.close()
        if target is not None:
            target.close()


@contextmanager
def log_to(path: Path) -> Iterator[LogFile]:
    """Collect everything the package logs (INFO and above) for ``path``."""
    logger = logging.getLogger("okr")
    before = logger.level
    memory = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
    logger.addHandler(memory)
    logger.setLevel(logging.INFO)
    logfile = LogFile(path, memory)
    try:
        yield logfile
    finally:
        logger.removeHandler(memory)
        logger.setLevel(before)
        logfile.close()
