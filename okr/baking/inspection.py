"""Says whether a checkpoint's gates carry a key, from the weights alone (spec chapter BAKE).

Null hypothesis: the weights were made without the key. Then the entries of the key's projections are independent random
signs, whatever the weights are, and the statistic is a weighted sum of them. :func:`okr.detection.swaps.sign_sum_p`
bounds its tail, with no floor.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln, log_ndtr
from torch import Tensor

from okr.baking.arithmetic import GATE_DTYPES
from okr.baking.checkpoint import Checkpoint
from okr.baking.header import Gate, UnreadGate
from okr.detection.decoys import Decoys
from okr.detection.swaps import CONSTANT, LEAST_P
from okr.errors import InvalidConfig
from okr.routing import Key

LEAST_SIZE = 1e-6
"""Directions of a weight whose singular value is a smaller share of the largest are left out: they are rounding."""


@dataclass(frozen=True)
class GateInspection:
    """What one gate shows: z, how far it lies on the key's side, in standard deviations."""

    tensor: str
    num_experts: int
    z: float


@dataclass(frozen=True)
class Inspection:
    """What the gates of a checkpoint show of a key.

    Attributes:
        key_id: the key's public name.
        z: how far all gates together lie on the key's side, in standard deviations, with the experts in order. Where
            some were removed, it is the largest for the experts that are left in order.
        matched_z: the same with the experts of every gate in the order that fits the key best.
        p_value: the chance of this or more under a random key, at most. It allows for both ways of looking, and for
            all ways in which experts can be left out or permuted.
        rank_p: the rank of z among ``decoys`` random images of the key, over ``decoys`` + 1. It is exact.
        decoys: how many images.
        alpha: the level that ``p_value`` was held against.
        gates: each gate by itself.
    """

    key_id: str
    z: float
    matched_z: float
    p_value: float
    rank_p: float
    decoys: int
    alpha: float
    gates: tuple[GateInspection, ...]

    @property
    def carried(self) -> bool:
        """Whether the weights carry the key at level ``alpha``."""
        return self.p_value <= self.alpha

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {"carried": self.carried} | asdict(self)

    def __str__(self) -> str:
        says = "carry the key" if self.carried else "show nothing of the key"
        return f"the gates {says} {self.key_id}: p <= {self.p_value:.3g} (z {self.z:.1f}, {len(self.gates)} gates)"


def inspect(
    folder: Path,
    key: Key,
    gates: Sequence[Gate | UnreadGate],
    *,
    original: Path | None = None,
    decoys: int = 999,
    alpha: float = 0.001,
) -> Inspection:
    """Whether the checkpoint in ``folder`` carries ``key`` in ``gates``. No model is run, and memory holds one gate.

    ``gates`` are those of the header, or those that :func:`okr.baking.lookup.find_gates` finds. A gate may have fewer
    experts than ``gates`` says, and in another order: experts that were pruned or permuted. With the folder of the
    ``original``, whose gates were measured, their order is known and what they have in common is subtracted, so that a
    much weaker trace of the key is found. Raises InvalidConfig if a checkpoint lacks one of the gates.
    """
    checkpoint, before = Checkpoint(folder), None if original is None else Checkpoint(original)
    whitened = []
    for gate in gates:
        unkeyed = None if before is None else _weight(before, gate, whole=True)
        whitened.append(agreement(_weight(checkpoint, gate), gate.signs(key), unkeyed))
    tables, ranks = [table for table, _ in whitened], [rank for _, rank in whitened]
    z, matched_z, p_value = evidence(tables, ranks)
    sums = np.array(
        [_in_order(table, *_images(table, decoys, gate.tensor)) for table, gate in zip(tables, gates, strict=True)]
    )
    own, drawn = sums[:, 0], sums[:, 1:].sum(0)
    return Inspection(
        key_id=key.id,
        z=z,
        matched_z=matched_z,
        p_value=p_value,
        rank_p=(1 + int((drawn >= own.sum()).sum())) / (decoys + 1),
        decoys=decoys,
        alpha=alpha,
        gates=tuple(
            GateInspection(gate.tensor, len(table), float(total) / math.sqrt(max(rank, 1)))
            for gate, table, rank, total in zip(gates, tables, ranks, own, strict=True)
        ),
    )


def evidence(tables: Sequence[np.ndarray], ranks: Sequence[int]) -> tuple[float, float, float]:
    """z, the matched z and the p-value of what :func:`products` gives for every site (OKR-BAKE-005, 006)."""
    scale, shapes = math.sqrt(max(1, sum(ranks))), [table.shape for table in tables]
    z = sum(float(_in_order(table)[0]) for table in tables) / scale
    matched_z = sum(float(table[linear_sum_assignment(-table)].sum()) for table in tables) / scale
    left_out = sum(_log_choices(kept, experts) for kept, experts in shapes)
    orders = left_out + sum(float(gammaln(kept + 1)) for kept, _ in shapes)
    log_p = math.log(2) + min(left_out + log_sign_sum_p(z), orders + log_sign_sum_p(matched_z))
    return z, matched_z, max(LEAST_P, math.exp(min(0.0, log_p)))


def agreement(
    weight: Float[Tensor, "kept hidden_size"],
    signs: np.ndarray,
    original: Float[Tensor, "experts hidden_size"] | None = None,
) -> tuple[np.ndarray, int]:
    """What :func:`products` gives of a gate, less the ``original`` where that is at hand (OKR-BAKE-007)."""
    if original is None:
        return products(weight, signs)
    rest, order = beyond(weight, original)
    return products(rest, signs[:, order])


def products(weight: Float[Tensor, "kept hidden_size"], signs: np.ndarray) -> tuple[np.ndarray, int]:
    """How each row of a gate's weight agrees with each column of a projection [hidden_size, experts]: [kept, experts],
    and how many directions the weight has.

    The weight is whitened first: its orthogonal polar factor takes its place (OKR-BAKE-005). A few large directions of
    the weight, which know nothing of the key, would drown it otherwise.
    """
    left, sizes, right = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = sizes >= max(LEAST_SIZE * float(sizes.max()), torch.finfo(torch.float64).tiny)
    table = (left[:, kept] @ right[kept]) @ torch.from_numpy(signs).double()
    return table.numpy(), int(kept.sum())


def beyond(
    weight: Float[Tensor, "kept hidden_size"], original: Float[Tensor, "experts hidden_size"]
) -> tuple[Float[Tensor, "kept hidden_size"], np.ndarray]:
    """What ``weight`` has beyond the ``original`` gate, float64, and which expert of the original each row was: the
    injection with the largest sum of cosines (OKR-BAKE-007)."""
    ours, theirs = weight.double(), original.double()
    cosines = torch.nn.functional.normalize(ours, dim=1) @ torch.nn.functional.normalize(theirs, dim=1).t()
    _, order = linear_sum_assignment(-cosines.numpy())
    return ours - theirs[order], order


def log_sign_sum_p(z: float) -> float:
    """The logarithm of the bound on P(sum of random signs >= ``z`` times its norm)."""
    return min(0.0, math.log(CONSTANT) + float(log_ndtr(-z)))


def _log_choices(kept: int, experts: int) -> float:
    """The logarithm of the number of ways in which ``kept`` of ``experts`` can be left."""
    return float(gammaln(experts + 1) - gammaln(kept + 1) - gammaln(experts - kept + 1))


def _images(table: Float[np.ndarray, "kept experts"], count: int, seed: str) -> tuple[np.ndarray, np.ndarray]:
    """Columns and signs [count + 1, experts] of the key itself and of ``count`` random images of it."""
    images = Decoys.draw(count, table.shape[1], hashlib.sha256(seed.encode()).digest())
    return images.columns.numpy(), images.signs.numpy()


def _in_order(
    table: Float[np.ndarray, "kept experts"], columns: np.ndarray | None = None, signs: np.ndarray | None = None
) -> Float[np.ndarray, " images"]:
    """The sum over the rows of the entry that belongs to each, for each image of the key; by default for itself.

    Where experts were removed, the row of a kept one may belong to any later column, and the largest sum that keeps the
    order is taken.
    """
    kept, experts = table.shape
    columns = np.arange(experts)[None] if columns is None else columns
    best = np.zeros((len(columns), experts - kept + 1))  # by how many columns were passed over
    for row in range(kept):
        places = slice(row, row + best.shape[1])
        entries = table[row, columns[:, places]] * (1 if signs is None else signs[:, places])
        best = np.maximum.accumulate(best + entries, axis=1)
    return np.asarray(best[:, -1])


def _weight(checkpoint: Checkpoint, gate: Gate | UnreadGate, *, whole: bool = False) -> Tensor:
    """The weight of a gate, which may have fewer experts than ``gate`` says unless it is to be ``whole``."""
    stored = checkpoint.tensors.get(gate.tensor)
    if stored is None:
        raise InvalidConfig(f"{checkpoint.folder} has no tensor {gate.tensor}: give the okr.json of this checkpoint")
    if stored.dtype not in GATE_DTYPES:
        raise InvalidConfig(f"{checkpoint.folder}: {gate.tensor} is of dtype {stored.dtype}: a quantised gate")
    least = gate.num_experts if whole else 1
    fits = len(stored.shape) == 2 and least <= stored.shape[0] <= gate.num_experts
    fits = fits and stored.shape[1] == gate.hidden_size
    if not fits:
        raise InvalidConfig(
            f"{checkpoint.folder}: {gate.tensor} is {list(stored.shape)}, not [{gate.num_experts}, {gate.hidden_size}]"
        )
    weight = checkpoint.tensor(gate.tensor)
    if not weight.isfinite().all():
        raise InvalidConfig(f"{checkpoint.folder}: {gate.tensor} is not finite everywhere")
    return weight
