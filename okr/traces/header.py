"""Defines a trace's header. It names the model, the key id and the setting; it never holds the secret."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
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
from torch import Tensor, nn

from okr.discovery import RouterSite
from okr.discovery.adapters import Place, joined, places, plain_path, prompt_adapter
from okr.errors import UnsupportedGeneration
from okr.routing.settings import ZoneName
from okr.traces.weights import WeightSample, acts, beyond_weights, stored
from okr.version import SPEC_VERSION

_IN_CACHE = ("PREFIX_TUNING", "CARTRIDGE")  # these put virtual tokens into the cache only, unseen by routers


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Index = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**15)]
Name = Annotated[str, Field(max_length=512)]
Difference = Literal["", "structure", "routers", "weights"]


class TraceSite(_Strict):
    """One router site whose routing the trace holds. The fields are those of :class:`~okr.discovery.RouterSite`."""

    path: Name
    stack: Name
    layer: Index
    num_experts: Count
    top_k: Count

    @property
    def in_encoder(self) -> bool:
        """Whether the tokens of this site are the encoder's."""
        return self.stack.startswith("encoder")


class ModelIdentity(_Strict):
    """Which model made a trace: its class and sites, a digest of its router weights in bfloat16, and a sample of all
    its weights.

    The identity is that of the model as it acts. A model with an active adapter therefore equals its own merged copy
    and differs from the model without the adapter. ``routers`` is None if the router weights cannot be read as such
    (offloaded, quantised, or under an adapter). ``weights`` is None if no weight can be read, and in files of older
    versions.
    """

    class_name: Name
    structure: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    routers: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None
    weights: WeightSample | None = None

    @classmethod
    def of(cls, model: nn.Module, sites: Sequence[RouterSite]) -> "ModelIdentity":
        """The identity of ``model``, whose keyable sites are ``sites``. It is the same in float32 and bfloat16, apart
        from rounding in the sample."""
        held = {place.plain: place for place in places(model)}
        kind = type(held[""].module)
        name = getattr(kind, "_okr_name", kind.__name__)
        routers = [held[plain_path(model, site.path)] for site in sites]
        shape: list[Any] = [
            [place.plain, site.stack, site.layer, site.num_experts, site.top_k, site.hidden_size]
            for place, site in zip(routers, sites, strict=True)
        ]
        structure = json.dumps([name, shape, *_prompt(model), *beyond_weights(model)])
        return cls(
            class_name=name,
            structure=hashlib.sha256(structure.encode()).hexdigest()[:16],
            routers=_routers(routers),
            weights=WeightSample.of(model),
        )

    def difference(self, other: "ModelIdentity") -> Difference:
        """The part in which two identities differ, or "" if both are one model. Parts that only one of them knows are
        not compared."""
        if self.structure != other.structure:
            return "structure"
        if None not in (self.routers, other.routers) and self.routers != other.routers:
            return "routers"
        known = self.weights is not None and other.weights is not None
        return "weights" if known and not self.weights.agrees(other.weights) else ""  # type: ignore[union-attr, arg-type]

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields without ``weights`` if that is None, because files of older versions have no such field and their
        checksum covers the header."""
        found: dict[str, Any] = serialize(self)
        if self.weights is None:
            del found["weights"]
        return found


def _routers(routers: Sequence[Place]) -> str | None:
    """A digest of the routers' weights rounded to bfloat16, or None if a weight cannot be read or an adapter acts on
    it."""
    weights: list[tuple[str, Tensor]] = []
    for router in routers:
        parts = list(places(router.module))
        around = [*router.adapters, *(adapter for part in parts for adapter in part.adapters)]
        state = sorted((joined(part.plain, name), value) for part in parts for name, value in stored(part.module))
        if any(acts(adapter) for adapter in around) or not all(_readable(value) for _, value in state):
            return None
        weights += [(f"{router.plain}.{name}", value) for name, value in state]
    return weights_digest(weights)


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of named weights, rounded to bfloat16."""
    digest = hashlib.sha256()
    for name, value in weights:
        rounded = value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
        digest.update(name.encode() + rounded.tobytes())
    return digest.hexdigest()[:16]


def _readable(value: Tensor) -> bool:
    """Whether a weight can be read: it is not offloaded and, as quantised parameters are whole numbers, not
    quantised."""
    return not value.is_meta and (value.is_floating_point() or not isinstance(value, nn.Parameter))


def _prompt(model: nn.Module) -> list[str]:
    """The kind and a digest of the weights of an adapter that adds virtual tokens, as parts of the model's structure;
    empty without one."""
    config = prompt_adapter(model)
    if config is None:
        return []
    encoder = model._modules.get("prompt_encoder")
    weights = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()) if encoder is not None else ():
        weights.update(name.encode() + value.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return [_kind(config), weights.hexdigest()]


def _kind(config: Any) -> str:
    """The name of a prompt adapter's type, or "" if ``config`` is None."""
    return "" if config is None else str(config.peft_type).rpartition(".")[2]


class TraceHeader(_Strict):
    """A trace's metadata.

    ``spec_version`` is the version of the specification under which the trace was made. Traces of every version named
    here are read alike. ``dtype`` is that of the model's weights. ``autocast`` is the dtype of the autocast in which
    the trace was made, or None. ``key_id``, ``zone``, ``epsilon`` and ``strength`` are None for native routing.
    """

    spec_version: Literal["1.0", "1.1"] = "1.1"
    model: ModelIdentity
    sites: Annotated[tuple[TraceSite, ...], Field(min_length=1, max_length=4096, strict=False, repr=False)]
    dtype: Name
    autocast: Literal["bfloat16", "float16"] | None = None
    key_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None
    zone: ZoneName | None = None
    epsilon: float | None = None
    strength: float | None = None

    @classmethod
    def describe(
        cls,
        model: nn.Module,
        sites: Sequence[RouterSite],
        *,
        identity: ModelIdentity | None = None,
        key_id: str | None = None,
        zone: ZoneName | None = None,
        epsilon: float | None = None,
        strength: float | None = None,
    ) -> "TraceHeader":
        """The header of a trace that ``model`` records at ``sites``. ``identity`` is computed if it is None.

        Raises UnsupportedGeneration if an active adapter puts virtual tokens before the prompt, because a trace cannot
        hold them.
        """
        kind = _kind(prompt_adapter(model))
        if kind not in ("", *_IN_CACHE):
            raise UnsupportedGeneration(
                f"an adapter of type {kind} is active: it adds virtual tokens, which no trace can hold; switch it off"
            )
        return cls(
            model=ModelIdentity.of(model, sites) if identity is None else identity,
            sites=tuple(
                TraceSite(**{n: getattr(s, n) for n in TraceSite.model_fields} | {"path": plain_path(model, s.path)})
                for s in sites
            ),
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            key_id=key_id,
            zone=zone,
            epsilon=epsilon,
            strength=strength,
        )

    def under(self, autocast: torch.dtype | None) -> "TraceHeader":
        """A copy of this header for a trace made under autocast to the dtype ``autocast``, or without autocast if that
        is None."""
        name = str(autocast).removeprefix("torch.") if autocast in (torch.bfloat16, torch.float16) else None
        return self.model_copy(update={"autocast": name})

    def computed_in(self, dtype: str) -> str:
        """The dtype of the computation in words: weights of ``dtype`` under this trace's autocast."""
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
        """The fields without ``autocast`` if that is None, so that such a trace is the same as before the field
        existed."""
        return {name: value for name, value in fields(self).items() if name != "autocast" or value is not None}


assert TraceHeader.model_fields["spec_version"].default == SPEC_VERSION
