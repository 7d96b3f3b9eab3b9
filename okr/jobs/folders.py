"""The output folder of a job."""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from okr import files
from okr.errors import InvalidConfig


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) so that it is whole at every moment. Raises InvalidConfig, from OSError."""
    try:
        files.replace(path, text.encode())
    except OSError as error:
        raise InvalidConfig(f"cannot write {path}: {error.strerror}") from error


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
        with contextlib.suppress(OSError):  # not empty, or never made
            for folder in made:
                folder.rmdir()
