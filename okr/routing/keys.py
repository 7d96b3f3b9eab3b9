"""Keys: a secret, its public id, and the projections that follow from it (spec chapter KEY). Uses NumPy and hashlib
only."""

import base64
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int8

from okr.errors import InvalidKey
from okr.routing.key_files import read, write_new

MIN_SECRET_BYTES = 16
MIN_PASSPHRASE_CHARACTERS = 12
_DOMAIN_ID = b"okr-key-id\x00"
_DOMAIN_PROJECTION = b"OKR-v1\x00"
_DOMAIN_TAG = b"OKR-tag-v1\x00"
_DOMAIN_STREAM = b"OKR-stream-v1\x00"
_FILE_FORMAT = "okr-key-1"


def key_id(secret: bytes) -> str:
    """The public name of a secret: the first 16 hexadecimal digits of SHA-256("okr-key-id" || 0x00 || secret).

    Raises InvalidKey unless the secret is 16 to 65535 bytes.
    """
    return hashlib.sha256(_DOMAIN_ID + _checked(secret)).hexdigest()[:16]


def projection(
    secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int
) -> Int8[np.ndarray, "hidden_size num_experts"]:
    """The projection of one router site: int8 [hidden_size, num_experts] of +1 and -1, the same bits on every
    platform.

    The bits are those of SHAKE-256 over a header that no two sites or secrets share. They fill the matrix row by row,
    the most significant bit first; bit 1 is +1.

    Arguments: ``stack`` is ``decoder`` or ``encoder``, with a suffix for a second router in one layer; ``layer`` is
    the index of the transformer layer. Raises InvalidKey unless the secret is 16 to 65535 bytes.
    """
    secret = _checked(secret)
    header = b"".join(
        (
            _DOMAIN_PROJECTION,
            _sized(secret),
            stack.encode("utf-8"),
            b"\x00",
            struct.pack(">III", layer, hidden_size, num_experts),
        )
    )
    count = hidden_size * num_experts
    stream = hashlib.shake_256(header).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=count, bitorder="big")
    return (bits.astype(np.int8) * 2 - 1).reshape(hidden_size, num_experts)


def _sized(secret: bytes) -> bytes:
    """A secret behind its size, 16 bits."""
    return struct.pack(">H", len(secret)) + secret


def _checked(secret: bytes) -> bytes:
    if not isinstance(secret, bytes | bytearray | memoryview):
        raise InvalidKey(f"a secret must be bytes, got {type(secret).__name__}")
    secret = bytes(secret)
    if not MIN_SECRET_BYTES <= len(secret) <= 0xFFFF:
        raise InvalidKey(f"a secret must have {MIN_SECRET_BYTES} to 65535 bytes, got {len(secret)}")
    return secret


class Key:
    """A secret key. It shows only its id. It cannot be pickled, and its repr, its errors and its hash hold no secret.

    Make one with :meth:`generate`, :meth:`load` or :meth:`from_passphrase`; :meth:`public` makes one to measure with.
    """

    __slots__ = ("__secret", "id")

    def __init__(self, secret: bytes) -> None:
        self.__secret = _checked(secret)
        self.id = key_id(self.__secret)

    @classmethod
    def generate(cls) -> "Key":
        """A new key of 32 bytes from the operating system's random source."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def from_passphrase(cls, text: str) -> "Key":
        """The key that scrypt (N=2^15, r=8, p=1, a fixed salt) derives from ``text``.

        Equal passphrases give equal keys, and anyone who guesses the passphrase has the key. Raises InvalidKey for
        fewer than 12 characters, or for text that UTF-8 cannot hold.
        """
        if not isinstance(text, str):
            raise InvalidKey(
                f"a passphrase must be text (str), got {type(text).__name__}; okr.Key takes a secret's bytes"
            )
        if len(text) < MIN_PASSPHRASE_CHARACTERS:
            raise InvalidKey(f"a passphrase must have at least {MIN_PASSPHRASE_CHARACTERS} characters")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidKey("a passphrase must be valid Unicode text (UTF-8 where it is read from a file)")
        derived = hashlib.scrypt(
            text.encode("utf-8"), salt=b"okr-passphrase-v1", n=2**15, r=8, p=1, maxmem=64 * 2**20, dklen=32
        )
        return cls(derived)

    @classmethod
    def public(cls, words: str) -> "Key":
        """The key whose secret is SHA-256 of ``words``. It is no secret, as anyone can derive it: for controls,
        measurements and examples that are to come out again, never for text that must be proven."""
        return cls(hashlib.sha256(words.encode()).digest())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Key":
        """Read a key file, or a key file's content from the environment variable NAME (``env:NAME``) or from the open
        file descriptor N (``fd:N``). A file that is itself named ``env:NAME`` is read by its absolute path.

        Raises InvalidKey for a damaged file, and for a file that is open to others: one that others may use or its
        group may write, or one that its group may read while its owner, not root, reads it.
        """
        return cls(read(Path(path), _parse))

    def save(self, path: str | os.PathLike[str], *, native_rate: Mapping[str, Any] | None = None) -> None:
        """Write a key file that only its owner may read. It never overwrites a file, and a failure leaves no file
        behind. ``native_rate`` is what ``okr keygen --for`` saw; it is written beside the secret.

        Raises InvalidKey if the file exists or cannot be written.
        """
        document: dict[str, Any] = {"format": _FILE_FORMAT, "key_id": self.id}
        document |= {"native_rate": dict(native_rate)} if native_rate is not None else {}
        document["secret"] = base64.b64encode(self.__secret).decode()
        write_new(Path(path), json.dumps(document).encode() + b"\n")

    def projection(
        self, *, stack: str, layer: int, hidden_size: int, num_experts: int
    ) -> Int8[np.ndarray, "hidden_size num_experts"]:
        """This key's projection of one router site: int8 [hidden_size, num_experts] of +1 and -1."""
        return projection(self.__secret, stack=stack, layer=layer, hidden_size=hidden_size, num_experts=num_experts)

    def tag(self, content: bytes) -> bytes:
        """A keyed digest of ``content``, 32 bytes: SHAKE-256("OKR-tag-v1" || 0x00 || size of the secret || secret ||
        content)."""
        return hashlib.shake_256(_DOMAIN_TAG + _sized(self.__secret) + content).digest(32)

    def stream(self, label: bytes, count: int) -> bytes:
        """``count`` bytes that nobody can tell from random ones without the secret, for this ``label``: SHAKE-256(
        "OKR-stream-v1" || 0x00 || size of the secret || secret || label)."""
        return hashlib.shake_256(_DOMAIN_STREAM + _sized(self.__secret) + label).digest(count)

    def __repr__(self) -> str:
        return f"Key(id={self.id})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return secrets.compare_digest(self.__secret, other.__secret)

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise InvalidKey("a key cannot be pickled or copied; save it with key.save(path)")

    def __deepcopy__(self, memo: Any) -> "Key":
        return self


def check_key(key: object) -> Key:
    """``key``, if it is a Key. Raises InvalidKey for anything else; the message shows nothing of it."""
    if not isinstance(key, Key):
        raise InvalidKey(f"expected an okr.Key (okr.Key.load reads a key file), got {type(key).__name__}")
    return key


def _parse(content: bytes) -> bytes | None:
    """The secret in a key file's content, or None. No exception that could carry the content leaves this function."""
    try:
        document = json.loads(content)
        if document["format"] != _FILE_FORMAT:
            return None
        secret = base64.b64decode(document["secret"], validate=True)
        return secret if key_id(secret) == document["key_id"] else None
    except (ValueError, KeyError, TypeError, RecursionError, InvalidKey):
        return None
