"""Writes files so that they are whole at every moment, whatever happens to the process or the disk."""

import contextlib
import os
import secrets
from pathlib import Path


def remove_torn(folder: Path) -> None:
    """Remove what a killed process left of files that it was writing in ``folder`` or below."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in place of what was there, and flush it to the disk. The mode is 0644 less what
    the umask takes.

    If that fails (a full disk, Ctrl-C) the old file stays and nothing else is left. Raises OSError, or ValueError for
    a name that no file can have.
    """
    if len(os.fsencode(path.name)) > 255:
        raise ValueError("File name too long")
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):  # a read-only file system, a name that no file can have
            temporary.unlink(missing_ok=True)
        raise
