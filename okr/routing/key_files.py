"""Reads a secret from a file, a variable or a descriptor, and writes key files, which never replace another file.

No error holds the content of a key file, or anything that could be such content.
"""

import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from okr.errors import InvalidKey

Parse = Callable[[bytes], bytes | None]
"""A function from a key file's content to its secret, or None."""

_LONGEST = 1 << 18
"""Bytes of the longest key file. What is longer is damaged, and read no further."""


def read(path: Path, parse: Parse) -> bytes:
    """The secret in the key file ``path``, or in what ``env:NAME`` or ``fd:N`` names. Raises InvalidKey if there is
    none."""
    if str(path).lstrip().startswith("{"):  # not quoted, like all that may be a key
        raise InvalidKey("the content of a key file was given where its name belongs: name the file, env:NAME or fd:N")
    kind, colon, rest = str(path).partition(":")
    if colon and kind in _SOURCES:
        return _SOURCES[kind](rest, parse)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = _content(file)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidKey(f"cannot read key file {path}: {_reason(error)}") from None
    secret = parse(content)
    if secret is None:
        raise InvalidKey(f"{path} is not an OKR key file, or is damaged (okr keygen makes one)") from None
    if os.name == "posix":
        _check_access(path, status)
    return secret


def _content(file: BinaryIO) -> bytes:
    """All that ``file`` holds, or nothing if that is too long for a key file."""
    content = file.read(_LONGEST + 1)
    return content if len(content) <= _LONGEST else b""


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _check_access(path: Path, status: os.stat_result) -> None:
    """Raise InvalidKey if a key file is open to others. A file of root's that a group may read is a mounted secret."""
    mode, reader = stat.S_IMODE(status.st_mode), os.geteuid()
    own = status.st_uid == reader
    if mode & 0o037 or (mode & 0o040 and own and reader != 0):
        name = shlex.quote(str(path))
        raise InvalidKey(
            f"key file {path} can be read by others; run: chmod {600 if own else 440} {name}; where you cannot (a "
            f"mounted secret), hand it over open: --key fd:3 3<{name}"
        )


def _from_environment(name: str, parse: Parse) -> bytes:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):  # not quoted: it may be what the variable should hold
        raise InvalidKey("env: takes the name of an environment variable (letters, digits and _)")
    shown = name if name.isupper() else "that env: names"  # in small letters it may be a secret
    if name not in os.environ:
        raise InvalidKey(f"the environment variable {shown} is not set")
    secret = parse(os.fsencode(os.environ[name]))
    if secret is None:
        raise InvalidKey(f"the environment variable {shown} does not hold the content of an OKR key file")
    return secret


def _from_descriptor(number: str, parse: Parse) -> bytes:
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise InvalidKey("fd: takes the number of an open file descriptor")
    try:
        with open(int(number), "rb", closefd=False) as file:
            content = _content(file)
    except OSError as error:
        raise InvalidKey(f"cannot read a key from file descriptor {number}: {_reason(error)}") from None
    secret = parse(content)
    if secret is None:
        raise InvalidKey(f"file descriptor {number} does not give the content of an OKR key file (it is read once)")
    return secret


_SOURCES: dict[str, Callable[[str, Parse], bytes]] = {"env": _from_environment, "fd": _from_descriptor}


def write_new(path: Path, content: bytes) -> None:
    """Write a key file that only its owner may read, whole or not at all. Raises InvalidKey if it cannot be written."""
    try:
        _make(path, content)
    except FileExistsError:
        raise InvalidKey(f"{path} exists; a key file is never overwritten") from None
    except (OSError, ValueError) as error:
        raise InvalidKey(f"cannot write key file {path}: {_reason(error)}") from None


def _make(path: Path, content: bytes) -> None:
    if os.path.lexists(path):
        raise FileExistsError
    temporary = path.parent / f".okr-key-{secrets.token_hex(8)}"
    _write(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError):  # a file system or platform without links
        _write(path, content)
    finally:
        temporary.unlink()


def _write(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and flush it to the disk. If it raises, there is no file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        path.unlink()
        raise
