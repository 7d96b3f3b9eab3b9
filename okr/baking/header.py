"""The file ``okr.json`` beside the weights of a baked checkpoint: under which key, and how. It holds no secret."""

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from jaxtyping import Int8
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from okr.errors import InvalidConfig
from okr.routing import Key, Setting
from okr.validation import first_problem
from okr.version import SPEC_VERSION

HEADER_FILE = "okr.json"
MAX_BYTES = 2**26
Model = TypeVar("Model", bound=BaseModel)
_Experts = Annotated[int, Field(ge=1, le=2**16)]
_Size = Annotated[int, Field(ge=1, le=2**20)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class UnreadGate(BaseModel):
    """The gate of one router site, of which the shape is known and no more.

    Attributes:
        num_experts: how many experts the projection has (E).
        tensor: the name of its weight in the checkpoint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    stack: str
    layer: Annotated[int, Field(ge=0, lt=2**24)]
    num_experts: _Experts
    hidden_size: _Size
    tensor: str

    def signs(self, key: Key) -> Int8[np.ndarray, "hidden_size num_experts"]:
        """The projection of this site under ``key``."""
        return key.projection(
            stack=self.stack, layer=self.layer, hidden_size=self.hidden_size, num_experts=self.num_experts
        )


class Gate(UnreadGate):
    """The gate of one router site, measured.

    Attributes:
        parameter: the name of its weight in the transformers model.
        norm: the mean norm of the router's input.
        sha256: the digest of the weight's bytes.
    """

    parameter: str
    norm: _Number
    sha256: _Digest


def _distinct(gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
    """``gates``. A tensor or a projection that counted twice would make the p-value of an inspection too small."""
    for named in ({gate.tensor for gate in gates}, {(gate.stack, gate.layer) for gate in gates}):
        if len(named) < len(gates):
            raise ValueError("two gates are the same tensor or the same layer")
    return gates


_Gates = Annotated[tuple[Gate, ...], Field(min_length=1), AfterValidator(_distinct)]


class Gates(BaseModel):
    """What was measured of a model's gates before a key is added: the file of ``okr bake --norms``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["okr-gates-1"] = "okr-gates-1"
    model: str
    gates: _Gates


class Header(BaseModel):
    """The content of ``okr.json``. ``tag`` is a keyed digest of the original gates, by which they are known again."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["okr-baked-1"] = "okr-baked-1"
    spec_version: str = SPEC_VERSION
    model: str
    key_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    strength: _Number
    tag: _Digest
    gates: _Gates

    @property
    def setting(self) -> Setting:
        """The setting by which traces of the baked model are judged: soft keying over all experts."""
        return Setting(math.inf, "boundary", self.strength)


def read_header(folder: Path) -> Header | None:
    """The header of a checkpoint's folder, or None if it is not a baked one. Raises InvalidConfig if it is damaged."""
    path = folder / HEADER_FILE
    return parsed(path, Header) if os.path.lexists(path) else None


def parsed(path: Path, kind: type[Model]) -> Model:
    """The JSON file ``path`` as a ``kind``. Raises InvalidConfig with one line if it is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise InvalidConfig(f"{path} is no file of okr bake: no file, or larger than {MAX_BYTES >> 20} MiB")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise InvalidConfig(f"{path} is no file of okr bake: {' '.join(first_problem(error).line().split())}") from None


def with_digests(gates: Sequence[Gate], digests: Sequence[str]) -> tuple[Gate, ...]:
    """``gates`` with other digests."""
    return tuple(gate.model_copy(update={"sha256": digest}) for gate, digest in zip(gates, digests, strict=True))
