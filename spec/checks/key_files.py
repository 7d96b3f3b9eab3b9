"""Chapter KEY, where the file of a key may come from, and what becomes of it where writing fails."""

import base64
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ..subject import Subject
from ..verdicts import Violation, require
from . import check
from .key import accepted_key, refusal

_SECRET = b"\xff\xfe a secret of 32 bytes, no more"
_NAME = "OKR_SPEC_KEY"


@contextmanager
def _saved() -> Iterator[Path]:
    """A key file in a folder of its own."""
    from okr.routing.keys import Key

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a:b.key"  # no kind of source
        Key(_SECRET).save(path)
        yield path


@check("OKR-KEY-010")
def keys_are_read_from_variables_and_descriptors(subject: Subject) -> None:
    """The variable and the descriptor hold the content of a key file. What they hold instead is refused."""
    from okr.routing.keys import Key

    with _saved() as path:
        opened = os.open(path, os.O_RDONLY)
        with patch.dict(os.environ, {_NAME: path.read_text("utf-8")}):
            for source in (f"env:{_NAME}", f"fd:{opened}"):
                require(accepted_key(source) == Key(_SECRET), f"another key from {source}")
        with patch.dict(os.environ, {_NAME: "{}"}):
            for source in (f"env:{_NAME}", "env:OKR_SPEC_NO_SUCH", f"fd:{opened}"):
                said = refusal(partial(Key.load, source))
                named = source.partition(":")[2] in said
                require(named, "the error does not name the source", expected=source, got=said)
        try:
            os.close(opened)
        except OSError as error:
            raise Violation("the descriptor was closed") from error
    for source in ("env:", "env:1A", "fd:", "fd:-1", "fd:x", "fd:1234567890", "fd:99999999"):
        refusal(partial(Key.load, source))


@check("OKR-KEY-008")
def content_in_place_of_a_name_is_not_quoted(subject: Subject) -> None:
    """The content of a key file, or the secret in base64, where a name belongs; also a secret whose base64 could be the
    name of a variable."""
    from okr.routing.keys import Key

    for shown in (base64.b64encode(_SECRET).decode(), "itCouldBeTheNameOfAVariable1"):
        key = Key(base64.b64decode(shown))
        content = json.dumps({"format": "okr-key-1", "key_id": key.id, "secret": shown})
        for given in (content, f"  {content}", f"env:{shown}", f"env:{content}", f"fd:{shown}"):
            require(shown not in refusal(partial(Key.load, given)), "the error quotes the key")
        for value in (f"{{{shown}", shown):
            with patch.dict(os.environ, {_NAME: value}):
                require(shown not in refusal(lambda: Key.load(f"env:{_NAME}")), "the error quotes a variable")


@check("OKR-KEY-009")
def longer_files_are_no_key_files(subject: Subject) -> None:
    """A file of 2^18 bytes is read to its end, one that is longer is refused, wherever its blanks are."""
    from okr.routing.keys import Key

    with _saved() as path:
        content = path.read_bytes()
        for length in (1 << 18, (1 << 18) + 1):
            for whole in (content.rjust(length), content.ljust(length)):
                path.write_bytes(whole)
                with path.open("rb") as file:
                    for source in (str(path), f"fd:{file.fileno()}"):
                        if length == 1 << 18:
                            require(accepted_key(source) == Key(_SECRET), f"another key from {length} bytes")
                        else:
                            refusal(partial(Key.load, source))


@check("OKR-KEY-009")
def an_owners_file_is_the_owners_alone(subject: Subject) -> None:
    """Whoever is not root may read a key file that nobody else may read, and not one that the group may read."""
    from okr.routing.keys import Key

    with _saved() as path:
        if os.geteuid() == 0:
            os.chown(path, 65_534, -1)
        with patch.object(os, "geteuid", return_value=path.stat().st_uid):
            require(accepted_key(path) == Key(_SECRET), "another key")
            path.chmod(0o640)
            refusal(lambda: Key.load(path))
        with patch.object(os, "geteuid", return_value=path.stat().st_uid + 1):
            require(accepted_key(path) == Key(_SECRET), "another key from a file that a group may read")


@check("OKR-KEY-009")
def a_key_file_is_whole_or_not_there(subject: Subject) -> None:
    """Where the disk is full for a moment, where another file takes the name meanwhile, and where links are not known,
    which is no reason to fail."""
    from okr.routing.keys import Key

    with _saved() as path:
        other, key = path.parent / "other.key", Key(_SECRET)
        failures: tuple[tuple[str, Any], ...] = (
            ("fsync", [OSError(errno.ENOSPC, "full"), None]),
            ("fsync", OSError(errno.ENOSPC, "full")),
            ("fsync", KeyboardInterrupt()),
            ("link", FileExistsError(errno.EEXIST, "there")),
        )
        for name, effect in failures:
            with patch.object(os, name, side_effect=effect), suppress(KeyboardInterrupt):
                refusal(lambda: key.save(other))
            left = [*path.parent.iterdir()]
            require(left == [path], f"files were left where {name} failed", expected=[path.name], got=left)
        for effect in (OSError(errno.EPERM, "no links here"), AttributeError("link")):
            with patch.object(os, "link", side_effect=effect):
                key.save(other)
            require(accepted_key(other) == key, "another key where links are not known")
            require(stat.S_IMODE(other.stat().st_mode) == 0o600, "the mode of a file where links are not known")
            refusal(lambda: key.save(other))
            other.unlink()
        other.symlink_to(path.parent / "absent")
        refusal(lambda: key.save(other))
        require(not (path.parent / "absent").exists(), "a key was written where a link points to")
