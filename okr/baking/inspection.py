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
    folder: Path, key: Key, gates: Sequence[Gate | UnreadGate], *, decoys: int = 999, alpha: float = 0.001
) -> Inspection:
    """Whether the checkpoint in ``folder`` carries ``key`` in ``gates``. No model is run, and memory holds one gate.

    ``gates`` are those of the header, or those that :func:`okr.baking.lookup.find_gates` finds. A gate may have fewer
    experts than ``gates`` says, and in another order: experts that were pruned or permuted. Raises InvalidConfig if the
    checkpoint lacks one of the gates.
    """
    checkpoint = Checkpoint(folder)
    tables = [products(_weight(checkpoint, gate), gate.signs(key)) for gate in gates]
    sums = np.array([_in_order(table, decoys, gate.tensor) for table, gate in zip(tables, gates, strict=True)])
    sizes = [len(table) for table in tables]
    total, scale = sums.sum(0), math.sqrt(sum(sizes))
    z = float(total[0]) / scale
    matched_z = sum(float(table[linear_sum_assignment(-table)].sum()) for table in tables) / scale
    shapes = [table.shape for table in tables]
    left_out = sum(_log_choices(kept, experts) for kept, experts in shapes)
    orders = left_out + sum(float(gammaln(kept + 1)) for kept, _ in shapes)
    log_p = min(left_out + log_sign_sum_p(z), orders + log_sign_sum_p(matched_z))
    return Inspection(
        key_id=key.id,
        z=z,
        matched_z=matched_z,
        p_value=min(1.0, max(LEAST_P, math.exp(min(0.0, math.log(2) + log_p)))),
        rank_p=(1 + int((total[1:] >= total[0]).sum())) / (decoys + 1),
        decoys=decoys,
        alpha=alpha,
        gates=tuple(
            GateInspection(gate.tensor, size, float(own[0]) / math.sqrt(size))
            for gate, size, own in zip(gates, sizes, sums, strict=True)
        ),
    )


def products(weight: Float[Tensor, "kept hidden_size"], signs: np.ndarray) -> np.ndarray:
    """How each row of a gate's weight agrees with each column of a projection [hidden_size, experts]: [kept, experts].

    The weight is whitened first: its orthogonal polar factor takes its place, whose rows are orthonormal. A few large
    directions of the weight, which know nothing of the key, would drown it otherwise. Under the null hypothesis every
    entry is a sum of random signs of variance 1.
    """
    left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
    table: np.ndarray = ((left @ right) @ torch.from_numpy(signs).double()).numpy()
    return table


def log_sign_sum_p(z: float) -> float:
    """The logarithm of the bound on P(sum of random signs >= ``z`` times its norm)."""
    return min(0.0, math.log(CONSTANT) + float(log_ndtr(-z)))


def _log_choices(kept: int, experts: int) -> float:
    """The logarithm of the number of ways in which ``kept`` of ``experts`` can be left."""
    return float(gammaln(experts + 1) - gammaln(kept + 1) - gammaln(experts - kept + 1))


def _in_order(table: Float[np.ndarray, "kept experts"], count: int, seed: str) -> Float[np.ndarray, " images"]:
    """The sum over the rows of the entry that belongs to each, for the key and then for ``count`` random images of it.

    Where experts were removed, the row of a kept one may belong to any later column, and the largest sum that keeps the
    order is taken.
    """
    kept, experts = table.shape
    images = Decoys.draw(count, experts, hashlib.sha256(seed.encode()).digest())
    columns, signs = images.columns.numpy(), images.signs.numpy()
    best = np.zeros((count + 1, experts - kept + 1))  # by how many columns were passed over
    for row in range(kept):
        places = slice(row, row + best.shape[1])
        best = np.maximum.accumulate(best + table[row, columns[:, places]] * signs[:, places], axis=1)
    return np.asarray(best[:, -1])


def _weight(checkpoint: Checkpoint, gate: Gate | UnreadGate) -> Tensor:
    stored = checkpoint.tensors.get(gate.tensor)
    if stored is None:
        raise InvalidConfig(f"{checkpoint.folder} has no tensor {gate.tensor}: give the okr.json of this checkpoint")
    if stored.dtype not in GATE_DTYPES:
        raise InvalidConfig(f"{checkpoint.folder}: {gate.tensor} is of dtype {stored.dtype}: a quantised gate")
    fits = len(stored.shape) == 2 and 0 < stored.shape[0] <= gate.num_experts and stored.shape[1] == gate.hidden_size
    if not fits:
        raise InvalidConfig(
            f"{checkpoint.folder}: {gate.tensor} is {list(stored.shape)}, not [{gate.num_experts}, {gate.hidden_size}]"
        )
    weight = checkpoint.tensor(gate.tensor)
    if not weight.isfinite().all():
        raise InvalidConfig(f"{checkpoint.folder}: {gate.tensor} is not finite everywhere")
    return weight
