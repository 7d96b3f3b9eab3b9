"""The values that cross the boundary to an implementation: what is asked, and what comes back."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """The settings of a watermark at one router site (chapters ZONE and STR)."""

    top_k: int
    epsilon: float
    zone: str = "max"
    strength: float = math.inf

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of ``select``."""
        return {"top_k": self.top_k, "epsilon": self.epsilon, "zone": self.zone, "strength": self.strength}


@dataclass(frozen=True, eq=False)
class SelectCase:
    """One question to ``select``: choice and key scores float32 [T, E], and the settings."""

    choice: FloatArray
    key: FloatArray
    setting: Setting

    @property
    def tokens(self) -> int:
        return int(self.choice.shape[0])

    @property
    def experts(self) -> int:
        return int(self.choice.shape[1])

    def __repr__(self) -> str:
        return f"SelectCase(\n  choice={show(self.choice)},\n  key={show(self.key)},\n  {self.setting})"


@dataclass(frozen=True, eq=False)
class ScoreCase:
    """One question to ``key_scores``: hidden states float32 [T, d] and a +1/-1 projection int8 [d, E]."""

    hidden: FloatArray
    projection: NDArray[np.int8]

    def __repr__(self) -> str:
        return f"ScoreCase(\n  hidden={show(self.hidden)},\n  projection={show(self.projection)})"


@dataclass(frozen=True)
class ProjectionCase:
    """One question to ``projection``: a secret and the router site it is expanded for."""

    secret: bytes
    stack: str = "decoder"
    layer: int = 0
    hidden_size: int = 4
    num_experts: int = 4

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``projection``."""
        return {
            "stack": self.stack,
            "layer": self.layer,
            "hidden_size": self.hidden_size,
            "num_experts": self.num_experts,
        }


@dataclass(frozen=True, eq=False)
class Routed:
    """What one site of one trace shows: choice scores float32 [T, E], states float32 [T, d], and the experts that ran,
    integers [T, k], negative where none were recorded."""

    stack: str
    layer: int
    choice: FloatArray
    hidden: FloatArray
    experts: IntArray

    @property
    def place(self) -> tuple[str, int]:
        """Which site this is. Several traces show one site several times."""
        return self.stack, self.layer

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name}={show(getattr(self, name))}" for name in ("choice", "hidden", "experts"))
        return f"Routed({self.stack!r}, {self.layer}, {arrays})"


@dataclass(frozen=True)
class EvidenceCase:
    """One question to a verifier (chapter EVIDENCE): the claimed secret, the settings, and what the traces show."""

    secret: bytes
    setting: Setting
    shown: tuple[Routed, ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence in swaps: the weights float64 [T, E] of each part of the case, how many experts were swapped in and
    count, z, and the p-value."""

    weights: tuple[NDArray[np.float64], ...]
    swaps: int
    z: float
    p_value: float


@dataclass(frozen=True, eq=False)
class BakeCase:
    """One gate to bake (chapter BAKE): the secret, the site, and the weight, float32 [E, d] with values of the dtype
    that ``dtype`` names (``float32``, ``bfloat16`` or ``float16``)."""

    secret: bytes
    stack: str
    layer: int
    weight: FloatArray
    dtype: str
    strength: float
    norm: float

    def __repr__(self) -> str:
        site = f"{self.secret!r}, {self.stack!r}, {self.layer}"
        return f"BakeCase({site}, {show(self.weight)}, {self.dtype!r}, {self.strength!r}, {self.norm!r})"


@dataclass(frozen=True)
class SealCase:
    """Bytes to seal under a secret (OKR-BAKE-003)."""

    secret: bytes
    content: bytes


@dataclass(frozen=True, eq=False)
class Found:
    """A gate in a checkpoint to inspect: its site, how many experts its projection has, its weight [E', d], and the
    original weight [E, d] where that is at hand."""

    stack: str
    layer: int
    num_experts: int
    weight: FloatArray
    original: FloatArray | None = None

    def __repr__(self) -> str:
        arrays = ", ".join("None" if part is None else show(part) for part in (self.weight, self.original))
        return f"Found({self.stack!r}, {self.layer}, {self.num_experts}, {arrays})"


@dataclass(frozen=True)
class InspectCase:
    """One question to whoever inspects weights: the claimed secret, and the gates."""

    secret: bytes
    gates: tuple[Found, ...]


@dataclass(frozen=True)
class Inspected:
    """The answer: z, the matched z and the p-value."""

    z: float
    matched_z: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Selected:
    """A checked answer of ``select``: indices int64 [T, k]; the other three are None where not reported."""

    indices: IntArray
    opportunity: BoolArray | None = None
    pool: BoolArray | None = None
    locked: BoolArray | None = None


@dataclass
class Call:
    """The last call made to an implementation, kept for the reproduction in a failure report."""

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


def show(array: NDArray[Any]) -> str:
    """An array as Python source that restores it to the last bit."""
    if not array.size:
        return f"np.zeros({array.shape}, dtype=np.{array.dtype})"
    if array.dtype.kind != "f":
        return f"np.array({array.tolist()}, dtype=np.{array.dtype})"
    rows = ("[" + ", ".join(map(_shortest, row)) + "]" for row in array)
    text = f"[{', '.join(rows)}]".replace("inf", "np.inf").replace("nan", "np.nan")
    return f"np.array({text}, dtype=np.{array.dtype})"


def _shortest(value: np.floating) -> str:
    """The shortest decimal text that gives the number again; a float32 needs fewer digits than the same float64."""
    text = str(value)
    return text if type(value)(float(text)) == value else repr(float(value))
