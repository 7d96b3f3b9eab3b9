"""A router in NumPy, written from the text alone. Small methods, so that the zoo can break one at a time."""

import hashlib
import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Selection(NamedTuple):
    """indices int64 [T, k]; opportunity bool [T]; pool and locked bool [T, E]."""

    indices: Array
    opportunity: Array
    pool: Array
    locked: Array


class NumpyRouter:
    """The three functions of a router (chapters KEY, SCORE, ZONE, STR, SEL, TIE, FAIL)."""

    name = "numpy"
    real: Any = np.float32

    # --- keys and key scores

    def projection(self, secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int) -> Array:
        """The +1/-1 projection of a site, int8 [hidden_size, num_experts]."""
        self.check_secret(secret)
        stream = self.stream(self.header(secret, stack, layer, hidden_size, num_experts), hidden_size * num_experts)
        return self.matrix(np.frombuffer(stream, np.uint8), hidden_size, num_experts)

    def check_secret(self, secret: bytes) -> None:
        if not 16 <= len(secret) <= 65_535:
            raise ValueError("a secret has 16 to 65535 bytes")

    def header(self, secret: bytes, stack: str, layer: int, hidden_size: int, num_experts: int) -> bytes:
        site = stack.encode() + b"\x00" + struct.pack(">III", layer, hidden_size, num_experts)
        return b"OKR-v1\x00" + struct.pack(">H", len(secret)) + secret + site

    def stream(self, header: bytes, bits: int) -> bytes:
        return hashlib.shake_256(header).digest(-(-bits // 8))

    def matrix(self, stream: Array, hidden_size: int, num_experts: int) -> Array:
        bits = np.unpackbits(stream)[: hidden_size * num_experts]
        return (bits.astype(np.int8) * 2 - 1).reshape(hidden_size, num_experts)

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """(h . projection) / ||h||, [T, E]."""
        norm = np.linalg.norm(hidden.astype(np.float64), axis=1, keepdims=True)
        unit = hidden / np.where(norm > 0, norm, 1)
        return self.dot(unit.astype(self.real), projection.astype(self.real))

    def dot(self, unit: Array, signs: Array) -> Array:
        return np.asarray(unit @ signs)

    # --- selection

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Selection:
        """Which experts run."""
        self.check(choice.shape[1], top_k, epsilon, zone, strength)
        c, g = choice.astype(self.real), key_scores.astype(self.real)
        with np.errstate(all="ignore"):
            pool, locked = self.zone(c, top_k, epsilon, zone)
            opportunity = self.opportunity(pool, locked, top_k) & self.sound(c, top_k) & self.key_is_sound(g)
            members = self.members(self.preference(c, g, strength), pool, locked, top_k)
        keyed = self.ordered(c, members, top_k)
        indices = np.where(opportunity[:, None], keyed, self.native(c, top_k))
        here = opportunity[:, None]
        return Selection(indices.astype(np.int64), opportunity, pool & here, locked & here)

    def check(self, experts: int, top_k: int, epsilon: float, zone: str, strength: float) -> None:
        if not (1 <= top_k <= experts and epsilon >= 0 and strength > 0 and zone in ("max", "boundary")):
            raise ValueError("setting out of range")

    def zone(self, c: Array, top_k: int, epsilon: float, zone: str) -> tuple[Array, Array]:
        candidate = c > -math.inf
        if zone == "max":
            return candidate & (c >= self.lower_edge(c.max(axis=1, keepdims=True), epsilon)), np.zeros_like(candidate)
        ranked = np.concatenate([-np.sort(-c, axis=1), np.full((len(c), 1), -math.inf, c.dtype)], axis=1)
        locked = c > self.upper_edge(ranked[:, top_k, None], epsilon)
        reach = c >= self.lower_edge(ranked[:, top_k - 1, None], epsilon)
        return candidate & reach & ~locked, candidate & locked

    def lower_edge(self, base: Array, epsilon: float) -> Array:
        return np.asarray(base - self.real(epsilon))

    def upper_edge(self, base: Array, epsilon: float) -> Array:
        return np.asarray(base + self.real(epsilon))

    def opportunity(self, pool: Array, locked: Array, top_k: int) -> Array:
        free = top_k - locked.sum(axis=1)
        return np.asarray((pool.sum(axis=1) > free) & (free > 0))

    def sound(self, c: Array, top_k: int) -> Array:
        return np.asarray((c < math.inf).all(axis=1) & ((c > -math.inf).sum(axis=1) >= top_k))

    def key_is_sound(self, g: Array) -> Array:
        return np.asarray(np.isfinite(g).all(axis=1))

    def preference(self, c: Array, g: Array, strength: float) -> Array:
        if strength == math.inf:
            return g
        big = np.finfo(self.real).max
        return np.asarray(np.clip(c + self.real(min(strength, big)) * g, -big, big))

    def members(self, preference: Array, pool: Array, locked: Array, top_k: int) -> Array:
        """Locked experts first, then the pool by preference, ties to the lower index; bool [T, E]."""
        rank = np.where(pool, preference, -math.inf)
        rank = np.where(locked, math.inf, rank)
        best = self.argsort(-rank)[:, :top_k]
        members = np.zeros_like(pool)
        np.put_along_axis(members, best, True, axis=1)
        return members

    def argsort(self, values: Array) -> Array:
        return np.argsort(values, axis=1, kind="stable")

    def ordered(self, c: Array, members: Array, top_k: int) -> Array:
        """Members in descending order of choice score, ties to the lower index."""
        return np.asarray(self.argsort(np.where(members, -c, math.inf))[:, :top_k])

    def native(self, c: Array, top_k: int) -> Array:
        return np.asarray(self.argsort(-c)[:, :top_k])


router = NumpyRouter()
