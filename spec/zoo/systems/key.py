"""Key objects and key files that are no secret, or not the same key again."""

import base64
import hashlib
import json
import os
import random
from importlib import import_module
from pathlib import Path
from typing import Any

from okr.errors import InvalidKey
from okr.routing.keys import Key

from . import Change, broken

keys: Any = import_module("okr.routing.keys")
OTHER = ("OKR-WEIGHT-001", "OKR-ATTACH-004", "OKR-TRACE-001", "OKR-REPLAY-001")


@broken(
    "the plain hash of the secret as its id",
    fails=("OKR-KEY-007",),
    passes=(*OTHER, "OKR-KEY-008", "OKR-KEY-010", "OKR-KEY-011"),
)
def plain_hash(change: Change) -> None:
    change(keys, "key_id", lambda secret: hashlib.sha256(secret).hexdigest()[:16])


@broken(
    "the id in capitals",
    fails=("OKR-KEY-007",),
    passes=("OKR-WEIGHT-001", "OKR-KEY-008", "OKR-KEY-010", "OKR-KEY-011", "OKR-KEY-012"),
)
def capitals(change: Change) -> None:
    name = keys.key_id
    change(keys, "key_id", lambda secret: name(secret).upper())


def _secret(key: Any) -> bytes:
    return bytes(key._Key__secret)


@broken(
    "a key shows its secret",
    fails=("OKR-KEY-008",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-009", "OKR-KEY-010", "OKR-KEY-011"),
)
def shows_its_secret(change: Change) -> None:
    change(Key, "__repr__", lambda self: f"Key({_secret(self).hex()})")


@broken(
    "keys can be pickled",
    fails=("OKR-KEY-008",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-009", "OKR-KEY-010", "OKR-KEY-011"),
)
def can_be_pickled(change: Change) -> None:
    change(Key, "__reduce_ex__", lambda self, protocol: (Key, (_secret(self),)))


@broken(
    "key files are overwritten",
    fails=("OKR-KEY-009",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-010", "OKR-KEY-011"),
)
def overwrites(change: Change) -> None:
    save: Any = Key.save

    def saved(self: Key, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
        save(self, path)

    change(Key, "save", saved)


@broken(
    "key files that all may read",
    fails=("OKR-KEY-009", "OKR-KEY-010"),
    passes=("OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-011"),
)
def readable_by_all(change: Change) -> None:
    save: Any = Key.save

    def saved(self: Key, path: Any) -> None:
        save(self, path)
        Path(path).chmod(0o644)

    change(Key, "save", saved)


@broken(
    "key files that others may read are taken",
    fails=("OKR-KEY-009",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-010"),
)
def takes_readable_files(change: Change) -> None:
    load: Any = Key.load

    def loaded(cls: Any, path: Any) -> Key:
        if Path(path).exists():
            Path(path).chmod(0o600)
        key: Key = load(path)
        return key

    change(Key, "load", classmethod(loaded))


@broken(
    "the id in a key file not compared",
    fails=("OKR-KEY-009",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-010"),
)
def compares_no_id(change: Change) -> None:
    def parse(content: bytes) -> bytes | None:
        try:
            secret = base64.b64decode(json.loads(content)["secret"], validate=True)
        except (ValueError, KeyError, TypeError):
            return None
        return secret if len(secret) >= 16 else None

    change(keys, "_parse", parse)


@broken("the secret in hexadecimal", fails=("OKR-KEY-010",), passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-011"))
def hexadecimal(change: Change) -> None:
    def saved(self: Key, path: Any) -> None:
        document = {"format": "okr-key-1", "key_id": self.id, "secret": _secret(self).hex()}
        Path(path).touch(0o600)
        Path(path).write_text(json.dumps(document) + "\n", "utf-8")

    change(Key, "save", saved)
    change(keys, "_parse", lambda content: bytes.fromhex(json.loads(content)["secret"]))


@broken(
    "a fast hash for passphrases",
    fails=("OKR-KEY-011",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-009", "OKR-KEY-010"),
)
def fast_hash(change: Change) -> None:
    change(Key, "from_passphrase", classmethod(lambda cls, text: cls(hashlib.sha256(text.encode()).digest())))


@broken(
    "short passphrases taken",
    fails=("OKR-KEY-011",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-009", "OKR-KEY-010"),
)
def short_passphrases(change: Change) -> None:
    def derived(cls: Any, text: str) -> Any:
        salt = b"okr-passphrase-v1"
        return cls(hashlib.scrypt(text.encode(), salt=salt, n=32768, r=8, p=1, maxmem=2**26, dklen=32))

    change(Key, "from_passphrase", classmethod(derived))


@broken(
    "generated keys of a thousand seeds",
    fails=("OKR-KEY-012",),
    passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-011"),
)
def few_seeds(change: Change) -> None:
    numbers = random.Random(0)
    change(Key, "generate", classmethod(lambda cls: cls(random.Random(numbers.randrange(1000)).randbytes(32))))


@broken(
    "generated keys of 16 bytes", fails=("OKR-KEY-012",), passes=(*OTHER, "OKR-KEY-007", "OKR-KEY-008", "OKR-KEY-011")
)
def short_keys(change: Change) -> None:
    numbers = random.Random(0)
    change(Key, "generate", classmethod(lambda cls: cls(numbers.randbytes(16))))


@broken(
    "what stands where the name of a key file belongs quoted in the error",
    fails=("OKR-KEY-008",),
    passes=("OKR-KEY-007", "OKR-KEY-009", "OKR-KEY-010"),
)
def quotes_the_name(change: Change) -> None:
    read = keys.read

    def quoting(path: Path, parse: Any) -> bytes:
        if str(path).lstrip().startswith("{"):
            raise InvalidKey(f"cannot read key file {path}")
        return bytes(read(path, parse))

    change(keys, "read", quoting)


@broken(
    "a descriptor closed once its key was read",
    fails=("OKR-KEY-010",),
    passes=("OKR-KEY-007", "OKR-KEY-008"),
)
def closes_the_descriptor(change: Change) -> None:
    read = keys.read

    def closing(path: Path, parse: Any) -> bytes:
        secret = bytes(read(path, parse))
        if str(path).startswith("fd:"):
            os.close(int(str(path)[3:]))
        return secret

    change(keys, "read", closing)
