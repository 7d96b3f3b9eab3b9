"""Samples a few weights of a model as they act. The sample tells a model from a fine-tuned copy, in any dtype.

A digest of all weights would not do. A copy in bfloat16, or a copy with a merged adapter, is the same model but differs
in the last bits.
"""

import base64
import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from okr.discovery.adapters import Place, places, switches
from okr.discovery.sites import pattern
from okr.routing.precision import autocast

ROW = 8  # entries of one kind of weight in a row: a difference is judged by the row's largest entry
ROWS = 64
TOLERANCE = 0.01  # of the row's largest; bfloat16 rounds by 2^-9, and merging an adapter in it by a little more
NEGLIGIBLE = 2.0**-20
UNKNOWN_EFFECT = math.inf  # in place of a value: an adapter acts here in a way that cannot be computed
_READ = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class WeightSample(BaseModel):
    """A sample of a model's weights. ``places`` is a digest of which weights were sampled. ``values`` is base64 of
    their values, little-endian float16 [rows, ROW], with NaN for a weight that cannot be read (offloaded,
    quantised)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    places: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    values: Annotated[str, Field(max_length=4 * ROW * ROWS, repr=False)]

    @field_validator("values")
    @classmethod
    def _whole(cls, values: str) -> str:
        size = len(base64.b64decode(values, validate=True))
        if not 0 < size <= 2 * ROW * ROWS or size % (2 * ROW):
            raise ValueError(f"must be base64 of 1 to {ROWS} whole rows")
        return values

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module) -> "WeightSample | None":
        """The sample of ``model``, or None if no weight can be read.

        It has at most ROWS x ROW entries, spread evenly over the kinds of weights. Weights of one kind have the same
        name in different layers and experts. Active adapters count. Output embeddings are left out, because no hidden
        state depends on them.
        """
        kinds = _kinds(model)
        each = ROW * max(1, ROWS // max(1, len(kinds)))
        chosen = [spots for kind in sorted(kinds)[:ROWS] for spots in _spread(kind, kinds[kind], each)]
        reader = _Reader()
        with ExitStack() as plainly:  # an autocast around the call would lower the weights
            for device in {parameter.device.type for parameter in model.parameters()}:
                plainly.enter_context(autocast(device, None))
            values = _gathered([reader.entries(*spots) for spots in chosen], [len(spots[-1]) for spots in chosen])
        if not chosen or np.isnan(values).all():
            return None
        names = [f"{place.plain}.{name}" for place, name, _, numbers in chosen for _ in numbers]
        named = hashlib.sha256("\n".join(names).encode())
        return cls(places=named.hexdigest()[:16], values=base64.b64encode(values.astype("<f2").tobytes()).decode())

    def agrees(self, other: "WeightSample") -> bool:
        """Whether all weights that both samples know are equal but for rounding."""
        ours, theirs = self._rows(), other._rows()
        if self.places != other.places or ours.shape != theirs.shape:
            return True  # the weights are stored otherwise (by some quantisations) and cannot be compared
        marked = [rows == UNKNOWN_EFFECT for rows in (ours, theirs)]
        absent = [np.isnan(rows) for rows in (ours, theirs)]
        if (marked[0] & absent[1]).any() or (marked[1] & absent[0]).any():
            return False
        both = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = (np.where(both, rows, 0) for rows in (ours, theirs))
        largest = np.maximum(abs(ours), abs(theirs)).max(-1, keepdims=True)
        return bool((abs(ours - theirs) <= TOLERANCE * largest + NEGLIGIBLE).all())

    def _rows(self) -> np.ndarray:
        values = np.frombuffer(base64.b64decode(self.values), "<f2")
        return values.reshape(-1, ROW).astype(np.float64)


def _kinds(model: nn.Module) -> dict[str, list[tuple[Place, str]]]:
    """The parameters that hidden states depend on, by kind, in the order of the model."""
    held = list(places(model))
    output = getattr(held[0].module, "get_output_embeddings", lambda: None)()
    head = {id(module) for module in output.modules()} if isinstance(output, nn.Module) else set()
    kinds: dict[str, list[tuple[Place, str]]] = {}
    for place in held:
        for name, value in place.module._parameters.items():
            if value is not None and id(place.module) not in head:
                kinds.setdefault(pattern(f"{place.plain}.{name}"), []).append((place, name))
    return kinds


def _spread(kind: str, weights: Sequence[tuple[Place, str]], count: int) -> Iterator[tuple[Place, str, str, range]]:
    """``count`` entries of one kind, spread evenly over its weights. Those of one weight are given as a place, a
    parameter's name, the kind and the entries' numbers."""
    for position in sorted({number * len(weights) // count for number in range(count)}):
        first, end = (-(-bound * count // len(weights)) for bound in (position, position + 1))
        yield *weights[position], kind, range(first, end)


@lru_cache(2**14)
def _index(kind: str, number: int, shape: torch.Size) -> tuple[int, ...]:
    """The index of an entry in a tensor. In every axis it lies below the largest power of two in the size, so padding a
    vocabulary does not move it."""
    seed = hashlib.sha256(f"{kind}\0{number}".encode()).digest()
    draws = (int.from_bytes(seed[4 * axis : 4 * axis + 4], "big") for axis in range(len(shape)))
    return tuple(draw % (1 << (size.bit_length() - 1)) for draw, size in zip(draws, shape, strict=True))


@lru_cache(2**13)
def _indices(kind: str, numbers: range, shape: torch.Size, device: torch.device) -> Tensor:
    """The indices [n] of several entries, as ``torch.take`` reads them."""
    places = [_index(kind, number, shape) for number in numbers]
    flat = [sum(place * math.prod(shape[axis + 1 :]) for axis, place in enumerate(index)) for index in places]
    return torch.tensor(flat, dtype=torch.long, device=device)


def _gathered(entries: Sequence[Tensor | None], counts: Sequence[int]) -> np.ndarray:
    """The entries as float16, NaN for None, which stands for as many as its count says. Entries of one device and dtype
    are transferred together."""
    values = np.full(sum(counts), np.nan)
    ends = np.cumsum(counts)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, part in enumerate(entries):
        if part is not None:
            alike.setdefault((part.device, part.dtype), []).append(index)
    for parts in alike.values():
        places = np.concatenate([np.arange(ends[index] - counts[index], ends[index]) for index in parts])
        values[places] = torch.cat([entries[index] for index in parts]).cpu().double().numpy()  # type: ignore[misc]
    largest = np.finfo(np.float16).max
    return np.where(np.isposinf(values), values, values.clip(-largest, largest)).astype(np.float16)


class _Reader:
    """Reads single entries of weights, with the effect of active adapters."""

    def __init__(self) -> None:
        self._states: dict[int, dict[str, Tensor] | None] = {}

    def entries(self, place: Place, name: str, kind: str, numbers: range) -> Tensor | None:
        """Entries [n] of one weight, or None if the weight cannot be read."""
        value = place.module._parameters[name]
        assert value is not None  # _kinds lists no parameter that is None
        acting = [adapter for adapter in place.adapters if acts(adapter)]
        if not _at_hand(value):
            return torch.tensor(UNKNOWN_EFFECT).expand(len(numbers)) if acting else None
        if any(part.is_meta for adapter in acting for part in adapter.parameters()):
            return torch.tensor(UNKNOWN_EFFECT).expand(len(numbers))
        found = torch.take(value, _indices(kind, numbers, value.shape, value.device))
        for adapter in acting:
            indices = [_index(kind, number, value.shape) for number in numbers]
            added = [part for index in indices if (part := _low_rank(adapter, name, index, value)) is not None]
            if len(added) < len(indices):
                return torch.stack([self._merged(place, name, index) for index in indices])
            found = found.double() + torch.stack(added)
        return found

    def _merged(self, place: Place, name: str, index: tuple[int, ...]) -> Tensor:
        """The entry of a merged copy of the layer, for adapters that are no plain LoRA."""
        if id(place.module) not in self._states:
            self._states[id(place.module)] = _merged_state(place)
        state = self._states[id(place.module)]
        return torch.tensor(UNKNOWN_EFFECT) if state is None or name not in state else state[name][index]


def _at_hand(value: Tensor) -> bool:
    """Whether single entries of a weight can be read: it is neither offloaded, nor quantised, nor empty."""
    plain = type(value) in (Tensor, nn.Parameter)
    return plain and value.dtype in _READ and not value.is_meta and value.numel() > 0


def revision(model: nn.Module) -> Any:
    """A value that changes when weights are written or adapters are switched. As long as it is the same, an identity
    still holds."""
    weights = [(value.data_ptr(), -1 if value.is_inference() else value._version) for value in model.parameters()]
    return weights, switches(model)


def stored(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers of ``module`` itself that its state dict holds, with their names."""
    left_out = module._non_persistent_buffers_set
    own = [*module._parameters.items(), *module._buffers.items()]
    return [(name, value) for name, value in own if value is not None and name not in left_out]


def acts(adapter: Any) -> bool:
    """Whether an adapter layer changes the effect of the weights inside it. It does if it is enabled and not merged, or
    disabled and still merged."""
    if adapter.disable_adapters:
        return bool(adapter.merged_adapters)
    names = set(adapter.active_adapters) & set(adapter._get_available_adapters())
    return bool(names) and not adapter.merged_adapters


def _low_rank(adapter: Any, name: str, index: tuple[int, ...], value: Tensor) -> Tensor | None:
    """What a plain LoRA adds to one entry of the weight ``name``, as a tensor without dimensions; None for any other
    adapter."""
    downs, ups = getattr(adapter, "lora_A", None), getattr(adapter, "lora_B", None)
    if adapter.disable_adapters or not (isinstance(downs, nn.ModuleDict) and isinstance(ups, nn.ModuleDict) and downs):
        return None  # under these names AdaLoRA has parameters, not modules
    if getattr(adapter, "parameter_name", "weight") != name:
        return None if any(getattr(adapter, "lora_bias", {}).values()) else value.new_zeros((), dtype=torch.double)
    total = value.new_zeros((), dtype=torch.double)
    for active in adapter.active_adapters:
        if active not in downs:
            continue
        if active in getattr(adapter, "lora_variant", {}) or active not in adapter.scaling:
            return None
        factors = _factors(adapter, active, index, value)
        if factors is None:
            return None
        total = total + (factors[0].double() * factors[1].double()).sum() * adapter.scaling[active]
    return total


def _factors(adapter: Any, active: str, index: tuple[int, ...], value: Tensor) -> tuple[Tensor, Tensor] | None:
    """The row [rank] and the column [rank] whose product the LoRA ``active`` adds to the entry ``index``; None if its
    shapes are others."""
    down, up = adapter.lora_A[active].weight, adapter.lora_B[active].weight
    if len(index) == 3 and hasattr(adapter, "get_delta_factors"):
        left, right, _ = adapter.get_delta_factors(active)
        return left[index[0], index[1]], right[index[0], :, index[2]]
    if len(index) != 2 or down.dim() != 2 or up.dim() != 2:
        return None
    row, column = reversed(index) if getattr(adapter, "fan_in_fan_out", False) else index
    return up[row], down[:, column]


def _merged_state(place: Place) -> dict[str, Tensor] | None:
    """The parameters of ``place`` in a copy whose adapters are merged, or unmerged if they are disabled. None if that
    fails."""
    try:
        held = copy.deepcopy(place.adapters[0])
        for layer in reversed(list(held.modules())):
            if "base_layer" in layer._modules and acts(layer):
                layer.unmerge() if layer.disable_adapters else layer.merge()  # type: ignore[operator]
    except Exception:  # an adapter may raise anything; its effect stays unknown
        return None
    return dict(stored(next(places(held)).module))


def beyond_weights(model: nn.Module) -> list[str]:
    """A digest, in bfloat16, of the adapters whose effect is no change of weights, so that no merged copy of the model
    exists. They depend on tokens or states (activated LoRA, Arrow), or add a bias to a layer without one. Empty if
    there are none."""
    digest, found, mergeable = hashlib.sha256(), False, dict[Any, bool]()
    for place in places(model):
        acting = [adapter for adapter in place.adapters if acts(adapter)]
        own = {name: value for name, value in place.module._parameters.items() if value is not None}
        read = [*own.values(), *(part for adapter in acting for part in adapter.parameters())]
        if not acting or not all(_at_hand(value) for value in read):
            continue
        kind = (*own, *(part for adapter in acting for part in _kind(adapter)))
        if kind not in mergeable:
            mergeable[kind] = all(map(_is_plain, acting)) or _merged_state(place) is not None
        if not mergeable[kind]:
            found = True
            digest.update(place.plain.encode())
            for value in (value for adapter in acting for value in _own_weights(adapter)):
                digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return [digest.hexdigest()] if found else []


def _is_plain(adapter: Any) -> bool:
    """Whether an adapter layer is a LoRA that does nothing but add a product to a weight."""
    bias, variants = getattr(adapter, "lora_bias", {}), getattr(adapter, "lora_variant", {})
    plain = isinstance(getattr(adapter, "lora_A", None), nn.ModuleDict)
    return plain and not any(bias.get(name) or name in variants for name in adapter.active_adapters)


def _kind(adapter: Any) -> list[Any]:
    """What decides whether an adapter layer can be merged: its class, and the variants and biases of its active
    adapters."""
    variants, bias = getattr(adapter, "lora_variant", {}), getattr(adapter, "lora_bias", {})
    names = adapter.active_adapters
    return [type(adapter), *((type(variants.get(name)), bool(bias.get(name))) for name in names)]


def _own_weights(adapter: Any) -> list[Tensor]:
    """The weights of an adapter layer that its active adapters use, in an order that does not depend on names."""
    used = [*adapter.active_adapters]
    used += [name for part in adapter.modules() for name in getattr(part, "task_adapter_names", ())]  # Arrow's
    named = [(name.split("."), value) for name, value in adapter.named_parameters() if "base_layer" not in name]
    return [value for active in used for parts, value in named if active in parts]
