"""The oracle of chapter BAKE, number by number. It shares no code with okr.baking."""

import hashlib
import math
from collections.abc import Callable, Iterable
from itertools import combinations, permutations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm as normal

from . import oracle
from .cases import BakeCase, FloatArray, Found, InspectCase, Inspected, SealCase
from .strategies import Draw, bfloat16

Matrix = NDArray[np.float64]
DTYPES = ("float32", "bfloat16", "float16")
_LEAST_SIZE = 1e-6


def rounded(values: FloatArray, dtype: str) -> FloatArray:
    """float32 values, rounded to nearest even to a dtype."""
    if dtype == "bfloat16":
        return bfloat16(values)
    return values.astype(np.float16).astype(np.float32) if dtype == "float16" else values


def baked(case: BakeCase, *, out: bool = False) -> FloatArray:
    """The weight with the key, or without it (OKR-BAKE-001, 004)."""
    experts, size = case.weight.shape
    signs = oracle.projection(
        case.secret, stack=case.stack, layer=case.layer, hidden_size=size, num_experts=experts
    ).T.astype(np.float32)
    step = np.float32(case.strength / case.norm) * np.float32(-1 if out else 1)
    return rounded(np.add(case.weight, step * signs, dtype=np.float32), case.dtype)


def sealed(case: SealCase) -> tuple[bytes, bytes]:
    """The tag and the sealed bytes (OKR-BAKE-003)."""
    secret = len(case.secret).to_bytes(2, "big") + case.secret
    tag = hashlib.shake_256(b"OKR-tag-v1\0" + secret + case.content).digest(32)
    stream = hashlib.shake_256(b"OKR-stream-v1\0" + secret + tag).digest(len(case.content))
    return tag, bytes(a ^ b for a, b in zip(case.content, stream, strict=True))


def whitened(weight: Matrix) -> tuple[Matrix, int]:
    """The polar factor of W by the eigenvectors of W W^T, and its rank (OKR-BAKE-005)."""
    sizes, vectors = np.linalg.eigh(weight @ weight.T)
    kept = sizes > _LEAST_SIZE**2 * max(float(sizes.max()), 1e-300)
    inverse = vectors[:, kept] / np.sqrt(sizes[kept])
    return inverse @ vectors[:, kept].T @ weight, int(kept.sum())


def _agreement(secret: bytes, gate: Found) -> tuple[Matrix, int]:
    """V P, with the columns of P in the order of the original's experts where that is at hand, and the rank."""
    weight = gate.weight.astype(np.float64)
    signs = oracle.projection(
        secret, stack=gate.stack, layer=gate.layer, hidden_size=weight.shape[1], num_experts=gate.num_experts
    ).astype(np.float64)
    if gate.original is not None:
        before = gate.original.astype(np.float64)
        unit = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (weight, before)]
        order = _best(unit[0] @ unit[1].T)
        weight, signs = weight - before[list(order)], signs[:, list(order)]
    factor, rank = whitened(weight)
    return factor @ signs, rank


def _best(table: Matrix) -> tuple[int, ...]:
    """The injection of rows into columns with the largest sum; all are tried."""
    rows, columns = table.shape
    return max(permutations(range(columns), rows), key=lambda order: math.fsum(table[range(rows), list(order)]))


def _bound(z: float) -> float:
    return min(0.0, float(normal.logsf(z)) - math.log(4) - float(normal.logsf(math.sqrt(2))))


def inspected(case: InspectCase) -> Inspected:
    """z, the matched z and the p-value (OKR-BAKE-005 to 007)."""
    tables, ranks = zip(*(_agreement(case.secret, gate) for gate in case.gates), strict=True)
    scale = math.sqrt(max(1, sum(ranks)))
    z = math.fsum(_largest(table, combinations) for table in tables) / scale
    matched_z = math.fsum(_largest(table, permutations) for table in tables) / scale
    left = math.fsum(math.log(math.comb(table.shape[1], len(table))) for table in tables)
    orders = math.fsum(math.log(math.perm(table.shape[1], len(table))) for table in tables)
    log_p = math.log(2) + min(left + _bound(z), orders + _bound(matched_z))
    return Inspected(z, matched_z, max(1e-300, math.exp(min(0.0, log_p))))


def _largest(table: Matrix, ways: Callable[[range, int], Iterable[tuple[int, ...]]]) -> float:
    """The largest sum over the columns that the rows can belong to."""
    rows = range(len(table))
    return max(math.fsum(table[rows, list(way)]) for way in ways(range(table.shape[1]), len(rows)))


@st.composite
def gates(draw: Draw, /, out: bool = False) -> BakeCase:
    """A gate to bake; with ``out`` one that was baked."""
    experts, size = draw(st.integers(1, 6), label="experts"), draw(st.integers(1, 8), label="size")
    dtype = draw(st.sampled_from(DTYPES), label="dtype")
    generator = np.random.default_rng(draw(st.integers(0, 2**16), label="weights"))
    values = generator.normal(size=(experts, size)) * 10.0 ** draw(st.integers(-3, 2), label="size of the weights")
    case = BakeCase(
        secret=draw(st.integers(0, 2**16), label="secret").to_bytes(16, "big"),
        stack=draw(st.sampled_from(("decoder", "encoder")), label="stack"),
        layer=draw(st.integers(0, 300), label="layer"),
        weight=rounded(values.astype(np.float32), dtype),
        dtype=dtype,
        strength=draw(st.sampled_from((0.05, 0.1, 1.0, 4.0)), label="strength"),
        norm=draw(st.sampled_from((0.7, 1.0, 12.3, 45.25)), label="norm"),
    )
    return case if not out else BakeCase(**{**vars(case), "weight": baked(case)})


@st.composite
def checkpoints(draw: Draw, /, pruned: bool = False, original: bool = False) -> InspectCase:
    """One to three gates of up to five experts, with the key or without it, in order or not."""
    secret = draw(st.integers(0, 2**16), label="secret").to_bytes(16, "big")
    generator = np.random.default_rng(draw(st.integers(0, 2**16), label="weights"))
    found = []
    for layer in range(draw(st.integers(1, 3), label="gates")):
        experts, size = draw(st.integers(1, 5), label="experts"), draw(st.integers(5, 24), label="size")
        before = generator.normal(size=(experts, size)).astype(np.float32)
        strength = draw(st.sampled_from((0.0, 0.3, 2.0)), label="strength")
        case = BakeCase(secret, "decoder", layer, before, "float32", strength, 1.0)
        after = baked(case) + (generator.normal(size=(experts, size)) / 64).astype(np.float32)
        order = draw(st.permutations(range(experts)), label="order") if pruned or original else range(experts)
        kept = list(order)[: draw(st.integers(1, experts), label="kept") if pruned else experts]
        found.append(Found("decoder", layer, experts, after[kept], before if original else None))
    return InspectCase(secret, tuple(found))
