"""A new folder that appears whole or not at all."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from okr.errors import InvalidConfig

_LOCK = ".lock"


def check_new(path: Path, source: Path) -> Path:
    """``path`` without dots. Raises InvalidConfig if it exists or lies in the folder ``source``, which is copied."""
    if os.path.lexists(path):
        raise InvalidConfig(f"{path} exists: name a folder that does not")
    plain = Path(os.path.abspath(path))  # noqa: PTH100 - links stay
    if os.path.lexists(plain):
        raise InvalidConfig(f"{path} exists: name a folder that does not")
    if plain.parent.resolve().is_relative_to(source.resolve()):
        raise InvalidConfig(f"{path} is in {source}, which is copied: name a folder elsewhere")
    return plain


@contextmanager
def new_folder(path: Path, source: Path) -> Iterator[Path]:
    """A folder to write in that takes the name ``path`` when the block ends. It appears whole or not at all.

    A killed process leaves nothing under that name; what it left beside it is removed by the next that writes there.
    Raises InvalidConfig if :func:`check_new` does, if another process is writing there, or for an OSError in the block.
    """
    try:
        plain = check_new(path, source)
        part = plain.parent / f".{hashlib.sha256(os.fsencode(plain.name)).hexdigest()[:16]}.part"
        made = [folder for folder in plain.parents if not folder.exists()]
        try:
            part.mkdir(parents=True, exist_ok=True)
            yield from _filled(part, plain)
        except BaseException:
            for folder in (part, *made):
                with contextlib.suppress(OSError):  # another process has written there
                    folder.rmdir()
            raise
    except Timeout:
        raise InvalidConfig(f"{path} is being written by another process") from None
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        raise InvalidConfig(f"cannot write {path}{file}: {error.strerror or error}") from None


def _filled(part: Path, path: Path) -> Iterator[Path]:
    """``part``, emptied and locked, which is then renamed to ``path``, or removed if the block fails."""
    lock = FileLock(part / _LOCK, timeout=0)
    with contextlib.suppress(NotImplementedError):  # filelock's word for a file system without locks
        lock.acquire()
    try:
        for left in part.iterdir():
            if left.name != _LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield part
        part.rename(path)
        (path / _LOCK).unlink(missing_ok=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        lock.release()
