"""What a trace says of itself: which model, which key id, which setting. Never the secret."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
)
from torch import nn

from okr import SPEC_VERSION
from okr.discovery import RouterSite


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Index = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**15)]
Name = Annotated[str, Field(max_length=512)]


class TraceSite(_Strict):
    """One recorded router site."""

    path: Name
    stack: Name
    layer: Index
    num_experts: Count
    top_k: Count

    @property
    def in_encoder(self) -> bool:
        """Whether this site's tokens are the encoder's."""
        return self.stack.startswith("encoder")


class ModelIdentity(_Strict):
    """Which model: its class and sites, and its router weights rounded to bfloat16 (None: weights not at hand)."""

    class_name: Name
    structure: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    routers: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None

    @classmethod
    def of(cls, model: nn.Module, sites: Sequence[RouterSite]) -> "ModelIdentity":
        """The identity of ``model``; the same in float32 and bfloat16."""
        shape = [[s.path, s.stack, s.layer, s.num_experts, s.top_k, s.hidden_size] for s in sites]
        structure = hashlib.sha256(json.dumps([type(model).__name__, shape]).encode())
        routers: Any = hashlib.sha256()
        for site in sites:
            for name, value in sorted(model.get_submodule(site.path).state_dict().items()):
                if value.is_meta:  # offloaded
                    return cls(class_name=type(model).__name__, structure=structure.hexdigest()[:16], routers=None)
                rounded = value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
                routers.update(f"{site.path}.{name}".encode() + rounded.tobytes())
        digests = {"structure": structure.hexdigest()[:16], "routers": routers.hexdigest()[:16]}
        return cls(class_name=type(model).__name__, **digests)

    def same_model(self, other: "ModelIdentity") -> bool:
        """Whether two identities name one model; weights decide where both know them."""
        known = None not in (self.routers, other.routers)
        return self.structure == other.structure and (not known or self.routers == other.routers)


class TraceHeader(_Strict):
    """A trace's metadata. ``zone``, ``epsilon`` and ``strength`` are None for native routing.

    ``dtype`` is that of the weights, ``autocast`` the one in which autocast multiplied them; None: it was off.
    """

    spec_version: Literal["1.0"] = "1.0"
    model: ModelIdentity
    sites: Annotated[tuple[TraceSite, ...], Field(min_length=1, max_length=4096, strict=False)]
    dtype: Name
    autocast: Literal["bfloat16", "float16"] | None = None
    key_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None
    zone: Literal["max", "boundary"] | None = None
    epsilon: float | None = None
    strength: float | None = None

    @classmethod
    def describe(
        cls,
        model: nn.Module,
        sites: Sequence[RouterSite],
        *,
        key_id: str | None = None,
        zone: str | None = None,
        epsilon: float | None = None,
        strength: float | None = None,
    ) -> "TraceHeader":
        """The header of what ``model`` records at ``sites`` under these settings."""
        return cls(
            model=ModelIdentity.of(model, sites),
            sites=tuple(TraceSite(**{n: getattr(s, n) for n in TraceSite.model_fields}) for s in sites),
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            key_id=key_id,
            zone=zone,  # type: ignore[arg-type]
            epsilon=epsilon,
            strength=strength,
        )

    def under(self, autocast: torch.dtype | None) -> "TraceHeader":
        """This header for what was computed under autocast to ``autocast``, of 16 bits; None: without."""
        name = str(autocast).removeprefix("torch.") if autocast in (torch.bfloat16, torch.float16) else None
        return self.model_copy(update={"autocast": name})

    def computed_in(self, dtype: str) -> str:
        """Weights of ``dtype`` under the autocast of this trace, in words."""
        return dtype if self.autocast is None else f"{dtype}, autocast {self.autocast}"

    @field_validator("epsilon", "strength", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        value = math.inf if value == "inf" else value
        if isinstance(value, float | int) and not value >= 0:
            raise ValueError("must be a number >= 0")
        return value

    @field_serializer("epsilon", "strength", when_used="json")
    def _write(self, value: float | None) -> float | str | None:
        return "inf" if value == math.inf else value

    @model_serializer(mode="wrap")
    def _without_autocast(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Nothing is written of an autocast that was off: such traces are what they were before there was the field."""
        return {name: value for name, value in fields(self).items() if name != "autocast" or value is not None}


assert TraceHeader.model_fields["spec_version"].default == SPEC_VERSION
