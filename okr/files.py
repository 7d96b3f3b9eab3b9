"""Writes files so that each is complete at every moment, whatever happens to the process or the disk."""

import contextlib
import os
import secrets
from pathlib import Path


def remove_torn(folder: Path) -> None:
    """Remove what a killed process left of files that it was writing in ``folder`` or below."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write ``content`` to the file ``path``, in place of an older one, and flush it to the disk. Its mode is 0644,
    less the bits that the umask removes.

    If that fails (a full disk, Ctrl-C), the old file stays and no other file is left. Raises OSError if the file cannot
    be written, and ValueError if the name cannot be a file's.
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
        with contextlib.suppress(OSError, ValueError):  # a read-only file system, or a name that cannot be a file's
            temporary.unlink(missing_ok=True)
        raise
