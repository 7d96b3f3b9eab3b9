"""The folder of a run: opened once, locked, with a journal that survives being killed at any point."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from okr import files
from okr.errors import InvalidConfig

JOURNAL, RESULTS, REPORT, KEY, TRACES = "journal.jsonl", "results.json", "report.html", "key.json", "traces"


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) so that it is whole at every moment. Raises InvalidConfig, from OSError."""
    try:
        files.replace(path, text.encode())
    except OSError as error:
        raise InvalidConfig(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def output_folder(path: Path, *, resume: bool) -> Iterator[Path]:
    """Create ``path`` for a run, or open it to resume; folders made here vanish again if they are left empty.

    Raises InvalidConfig when the folder cannot be written, or holds something and ``resume`` is False.
    """
    with writable_folder(path):
        occupied = any(path.iterdir())
        if occupied and not resume:
            raise InvalidConfig(
                f"the output folder {path} is not empty: add --resume to continue the run in it, or choose another one"
            )
        if occupied and not (path / JOURNAL).exists() and not (path / KEY).exists():
            raise InvalidConfig(f"there is no run to resume in {path}: it has no {JOURNAL}")
        yield path


@contextmanager
def writable_folder(path: Path) -> Iterator[None]:
    """Create ``path`` if need be, for the length of a block; folders made here vanish again if they are left empty.

    Raises InvalidConfig when the folder cannot be written.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path, prefix=".writable."):
                pass
        except OSError as error:
            raise InvalidConfig(
                f"cannot write to the output folder {path} ({error.strerror}): choose another with --output-dir"
            ) from None
        yield
    finally:
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # not empty, or never made
        for folder in folders:
            folder.rmdir()


class Journal:
    """Lines of JSON, each on disk before the next step of a run begins. A torn last line is dropped.

    The first line is the header; ``records`` are the lines after it, oldest first. Holds a lock on the file: two
    runs never write one folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a+b", buffering=0)  # what a full disk refused is not written later, on closing
        except OSError as error:
            raise InvalidConfig(f"cannot write {path}: {error.strerror}") from None
        try:
            self._lock()
            lines = self._whole_lines()
        except BaseException:
            self._file.close()
            raise
        self.header: dict[str, Any] | None = lines[0] if lines else None
        self.records: list[dict[str, Any]] = lines[1:]

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidConfig(f"another run is writing to {self.path.parent}") from None
        except OSError:  # a network file system without locks: nothing then keeps two runs apart
            return

    def _whole_lines(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines: list[dict[str, Any]] = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or "kind" not in record:
                raise InvalidConfig(f"{self.path} is damaged in line {number}: start again in another folder")
            lines.append(record)
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return lines

    def begin(self, header: dict[str, Any]) -> None:
        """Write the first line."""
        assert self.header is None
        self._write(header)
        self.header = header

    def add(self, record: dict[str, Any]) -> None:
        """Append one record; it is on disk when this returns."""
        self._write(record)
        self.records.append(record)

    def _write(self, record: dict[str, Any]) -> None:
        left = memoryview((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InvalidConfig(f"cannot write {self.path}: {error.strerror}") from error

    def discard(self) -> None:
        """Forget everything; closing then removes the file."""
        self._file.truncate(0)
        self.header, self.records = None, []

    def close(self) -> None:
        """Close the file and give up the lock; a journal in which nothing was written is removed."""
        if self.header is None:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
