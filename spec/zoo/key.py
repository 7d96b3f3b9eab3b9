"""Bugs of the key schedule. None of them may disturb scores or selection."""

import hashlib
import struct

import numpy as np

from ..implementations.numpy_router import Array, NumpyRouter
from . import seeded

REST = ("OKR-SCORE", "OKR-ZONE", "OKR-STR", "OKR-SEL", "OKR-TIE", "OKR-FAIL")


@seeded(
    "short secrets are accepted",
    fails=("OKR-KEY-001",),
    passes=("OKR-KEY-002", "OKR-KEY-003", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class AcceptsShortSecrets(NumpyRouter):
    def check_secret(self, secret: bytes) -> None:
        pass


@seeded(
    "SHA-256 in counter mode instead of SHAKE-256",
    fails=("OKR-KEY-002",),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class OtherHash(NumpyRouter):
    def stream(self, header: bytes, bits: int) -> bytes:
        blocks = range(-(-bits // 256))
        return b"".join(hashlib.sha256(header + bytes([n])).digest() for n in blocks)[: -(-bits // 8)]


@seeded(
    "SHAKE-128",
    fails=("OKR-KEY-002", "OKR-KEY-003"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class WeakerHash(NumpyRouter):
    def stream(self, header: bytes, bits: int) -> bytes:
        return hashlib.shake_128(header).digest(-(-bits // 8))


@seeded(
    "little-endian integers",
    fails=("OKR-KEY-002",),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class LittleEndian(NumpyRouter):
    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        site = stack.encode() + b"\x00" + struct.pack("<III", layer, hidden_size, num_experts)
        return b"OKR-v1\x00" + struct.pack("<H", len(secret)) + secret + site


@seeded(
    "the layer cut to one byte",
    fails=("OKR-KEY-002", "OKR-KEY-005"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-006", *REST),
)
class LayerByte(NumpyRouter):
    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        return super().header(secret, stack, layer % 256, hidden_size, num_experts)


@seeded(
    "the secret's length left out",
    fails=("OKR-KEY-002", "OKR-KEY-005"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-006", *REST),
)
class NoLength(NumpyRouter):
    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        return (
            super()
            .header(secret, stack, layer, hidden_size, num_experts)
            .replace(struct.pack(">H", len(secret)), b"", 1)
        )


@seeded(
    "the stack left out",
    fails=("OKR-KEY-002", "OKR-KEY-005"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-006", *REST),
)
class NoStack(NumpyRouter):
    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        return super().header(secret, "", layer, hidden_size, num_experts)


@seeded(
    "trailing zeros of a secret stripped",
    fails=("OKR-KEY-002", "OKR-KEY-005"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-006", *REST),
)
class StripsZeros(NumpyRouter):
    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        return super().header(secret.rstrip(b"\x00"), stack, layer, hidden_size, num_experts)


@seeded(
    "another version of the domain",
    fails=("OKR-KEY-002",),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class OtherDomain(NumpyRouter):
    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        return super().header(secret, stack, layer, hidden_size, num_experts).replace(b"OKR-v1", b"OKR-v2")


@seeded(
    "column-major layout",
    fails=("OKR-KEY-002", "OKR-KEY-003"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class ColumnMajor(NumpyRouter):
    def matrix(self, stream: Array, hidden_size: int, num_experts: int) -> Array:
        return super().matrix(stream, num_experts, hidden_size).T


@seeded(
    "least significant bit first",
    fails=("OKR-KEY-002", "OKR-KEY-003"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class LowBitFirst(NumpyRouter):
    def matrix(self, stream: Array, hidden_size: int, num_experts: int) -> Array:
        bits = np.unpackbits(stream, bitorder="little")[: hidden_size * num_experts]
        return (bits.astype(np.int8) * 2 - 1).reshape(hidden_size, num_experts)


@seeded(
    "rows padded to whole bytes",
    fails=("OKR-KEY-003",),
    passes=("OKR-KEY-001", "OKR-KEY-002", "OKR-KEY-004", "OKR-KEY-006", *REST),
)
class PaddedRows(NumpyRouter):
    def projection(self, secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int) -> Array:
        self.check_secret(secret)
        wide = -(-num_experts // 8) * 8
        stream = self.stream(self.header(secret, stack, layer, hidden_size, num_experts), hidden_size * wide)
        return self.matrix(np.frombuffer(stream, np.uint8), hidden_size, wide)[:, :num_experts]


@seeded(
    "signs inverted",
    fails=("OKR-KEY-002", "OKR-KEY-003"),
    passes=("OKR-KEY-001", "OKR-KEY-004", "OKR-KEY-005", "OKR-KEY-006", *REST),
)
class InvertedSigns(NumpyRouter):
    def matrix(self, stream: Array, hidden_size: int, num_experts: int) -> Array:
        return -super().matrix(stream, hidden_size, num_experts)


@seeded(
    "bits left as 0 and 1",
    fails=("OKR-KEY-002", "OKR-KEY-003", "OKR-KEY-004"),
    passes=("OKR-KEY-001", "OKR-KEY-006", *REST),
)
class ZeroOne(NumpyRouter):
    def matrix(self, stream: Array, hidden_size: int, num_experts: int) -> Array:
        return (super().matrix(stream, hidden_size, num_experts) + 1) // 2


@seeded("state kept between calls", fails=("OKR-KEY-002", "OKR-KEY-006"), passes=("OKR-KEY-004", *REST))
class Stateful(NumpyRouter):
    calls = 0

    def stream(self, header: bytes, bits: int) -> bytes:
        self.calls += 1
        return super().stream(header + bytes([self.calls % 256]), bits)
