"""A few of a model's weights, as they act: enough to tell a model from its fine-tuned copy, whatever its dtype.

A digest would not do: a copy in bfloat16, or one with an adapter merged, is the same model with other last bits.
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

ROW = 8  # entries of one kind of weight that are compared together: their largest says what is small
ROWS = 64
TOLERANCE = 0.01  # of a row's largest; a copy in bfloat16 is off by 2^-9, an adapter merged in bfloat16 by some more
NEGLIGIBLE = 2.0**-20
UNKNOWN_EFFECT = math.inf  # in place of a value: an adapter acts here, and what it does cannot be computed
_READ = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class WeightSample(BaseModel):
    """``places``: a digest of which weights were sampled. ``values``: base64 of their float16 [rows, ROW],
    little-endian; NaN where a weight was not at hand (offloaded, quantised)."""

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
        """The sample of ``model``: at most ROWS x ROW entries, spread evenly over its kinds of weights (a kind: one
        name, layers and experts left open). Adapters that are active count. Output embeddings do not: no state
        depends on them. None where no weight is at hand."""
        kinds = _kinds(model)
        each = ROW * max(1, ROWS // max(1, len(kinds)))
        chosen = [spot for kind in sorted(kinds)[:ROWS] for spot in _spread(kind, kinds[kind], each)]
        reader = _Reader()
        with ExitStack() as plainly:  # an autocast around the call would read other weights, or none
            for device in {parameter.device.type for parameter in model.parameters()}:
                plainly.enter_context(autocast(device, None))
            values = _gathered([reader.entry(*spot) for spot in chosen])
        if not chosen or np.isnan(values).all():
            return None
        named = hashlib.sha256("\n".join(f"{place.plain}.{name}" for place, name, *_ in chosen).encode())
        return cls(places=named.hexdigest()[:16], values=base64.b64encode(values.astype("<f2").tobytes()).decode())

    def agrees(self, other: "WeightSample") -> bool:
        """Whether no weight that both know differs by more than rounding."""
        ours, theirs = self._rows(), other._rows()
        if self.places != other.places or ours.shape != theirs.shape:
            return True  # stored otherwise (some quantisations do): nothing to compare
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
    """The parameters that act on states, by kind, in the model's order."""
    held = list(places(model))
    output = getattr(held[0].module, "get_output_embeddings", lambda: None)()
    head = {id(module) for module in output.modules()} if isinstance(output, nn.Module) else set()
    kinds: dict[str, list[tuple[Place, str]]] = {}
    for place in held:
        for name, value in place.module._parameters.items():
            if value is not None and id(place.module) not in head:
                kinds.setdefault(pattern(f"{place.plain}.{name}"), []).append((place, name))
    return kinds


def _spread(kind: str, weights: Sequence[tuple[Place, str]], count: int) -> Iterator[tuple[Place, str, str, int]]:
    """``count`` entries of one kind, as many in each of its weights: whose, which, the kind and their number in it."""
    for number in range(count):
        yield *weights[number * len(weights) // count], kind, number


@lru_cache(2**14)
def _index(kind: str, number: int, shape: torch.Size) -> tuple[int, ...]:
    """Where in a tensor an entry is: below the largest power of two, so that padding a vocabulary moves none."""
    seed = hashlib.sha256(f"{kind}\0{number}".encode()).digest()
    draws = (int.from_bytes(seed[4 * axis : 4 * axis + 4], "big") for axis in range(len(shape)))
    return tuple(draw % (1 << (size.bit_length() - 1)) for draw, size in zip(draws, shape, strict=True))


def _gathered(entries: Sequence[Tensor | None]) -> np.ndarray:
    """Entries as float16, NaN for None; one transfer for all of a device and dtype."""
    values = np.full(len(entries), np.nan)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, entry in enumerate(entries):
        if entry is not None:
            alike.setdefault((entry.device, entry.dtype), []).append(index)
    for indices in alike.values():
        values[indices] = torch.stack([entries[index] for index in indices]).cpu().double().numpy()  # type: ignore[misc]
    largest = np.finfo(np.float16).max
    return np.where(np.isposinf(values), values, values.clip(-largest, largest)).astype(np.float16)


class _Reader:
    """Reads single entries of weights as adapters make them act."""

    def __init__(self) -> None:
        self._states: dict[int, dict[str, Tensor] | None] = {}

    def entry(self, place: Place, name: str, kind: str, number: int) -> Tensor | None:
        """One entry [], or None where the weight is not at hand."""
        value = place.module._parameters[name]
        assert value is not None  # what _kinds left out
        acting = [adapter for adapter in place.adapters if acts(adapter)]
        if not _at_hand(value):
            return torch.tensor(UNKNOWN_EFFECT) if acting else None
        if any(part.is_meta for adapter in acting for part in adapter.parameters()):
            return torch.tensor(UNKNOWN_EFFECT)
        index = _index(kind, number, value.shape)
        found = value[index]
        for adapter in acting:
            part = _low_rank(adapter, name, index, value)
            if part is None:
                return self._merged(place, name, index)
            found = found.double() + part
        return found

    def _merged(self, place: Place, name: str, index: tuple[int, ...]) -> Tensor:
        """The same from a merged copy of the layer: for adapters that are no plain LoRA."""
        if id(place.module) not in self._states:
            self._states[id(place.module)] = _merged_state(place)
        state = self._states[id(place.module)]
        return torch.tensor(UNKNOWN_EFFECT) if state is None or name not in state else state[name][index]


def _at_hand(value: Tensor) -> bool:
    """Whether single entries of a weight can be read: neither offloaded nor quantised, nor without any."""
    plain = type(value) in (Tensor, nn.Parameter)
    return plain and value.dtype in _READ and not value.is_meta and value.numel() > 0


def revision(model: nn.Module) -> Any:
    """What is another value once weights were written or adapters switched: a header describes the model until then."""
    weights = [(value.data_ptr(), -1 if value.is_inference() else value._version) for value in model.parameters()]
    return weights, switches(model)


def stored(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers of ``module`` itself that its state dict holds."""
    left_out = module._non_persistent_buffers_set
    own = [*module._parameters.items(), *module._buffers.items()]
    return [(name, value) for name, value in own if value is not None and name not in left_out]


def acts(adapter: Any) -> bool:
    """Whether an adapter's layer changes what the weights inside it do now: switched on and not merged into them, or
    merged and switched off."""
    if adapter.disable_adapters:
        return bool(adapter.merged_adapters)
    names = set(adapter.active_adapters) & set(adapter._get_available_adapters())
    return bool(names) and not adapter.merged_adapters


def _low_rank(adapter: Any, name: str, index: tuple[int, ...], value: Tensor) -> Tensor | None:
    """What a plain LoRA adds to one entry of the weight ``name`` [], None for any other adapter."""
    downs, ups = getattr(adapter, "lora_A", None), getattr(adapter, "lora_B", None)
    if adapter.disable_adapters or not (isinstance(downs, nn.ModuleDict) and isinstance(ups, nn.ModuleDict) and downs):
        return None  # AdaLoRA keeps parameters under these names
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
    """The row [rank] and the column [rank] whose product a LoRA adds to the entry ``index``."""
    down, up = adapter.lora_A[active].weight, adapter.lora_B[active].weight
    if len(index) == 3 and hasattr(adapter, "get_delta_factors"):
        left, right, _ = adapter.get_delta_factors(active)
        return left[index[0], index[1]], right[index[0], :, index[2]]
    if len(index) != 2 or down.dim() != 2 or up.dim() != 2:
        return None
    row, column = reversed(index) if getattr(adapter, "fan_in_fan_out", False) else index
    return up[row], down[:, column]


def _merged_state(place: Place) -> dict[str, Tensor] | None:
    """The parameters of ``place`` once its adapters are merged (or taken out, where they are switched off), from a
    copy; None where that cannot be computed."""
    try:
        held = copy.deepcopy(place.adapters[0])
        for layer in reversed(list(held.modules())):
            if "base_layer" in layer._modules and acts(layer):
                layer.unmerge() if layer.disable_adapters else layer.merge()  # type: ignore[operator]
    except Exception:  # whatever a foreign adapter raises, its effect stays unknown
        return None
    return dict(stored(next(places(held)).module))


def beyond_weights(model: nn.Module) -> list[str]:
    """What acts in ``model`` and is no change of its weights, so that no merged copy of it exists: adapters that
    depend on the tokens or the states (activated LoRA, Arrow), or that add a bias where there was none. A digest of
    their weights rounded to bfloat16, empty where there are none."""
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
    """Whether an adapter's layer is a LoRA that only ever adds a product to a weight."""
    bias, variants = getattr(adapter, "lora_bias", {}), getattr(adapter, "lora_variant", {})
    plain = isinstance(getattr(adapter, "lora_A", None), nn.ModuleDict)
    return plain and not any(bias.get(name) or name in variants for name in adapter.active_adapters)


def _kind(adapter: Any) -> list[Any]:
    """What decides whether an adapter's layer can be merged: its class, and of its active adapters the variants."""
    variants, bias = getattr(adapter, "lora_variant", {}), getattr(adapter, "lora_bias", {})
    names = adapter.active_adapters
    return [type(adapter), *((type(variants.get(name)), bool(bias.get(name))) for name in names)]


def _own_weights(adapter: Any) -> list[Tensor]:
    """The weights of an adapter's layer by which its active adapters act, in an order that no name changes."""
    used = [*adapter.active_adapters]
    used += [name for part in adapter.modules() for name in getattr(part, "task_adapter_names", ())]  # Arrow chooses
    named = [(name.split("."), value) for name, value in adapter.named_parameters() if "base_layer" not in name]
    return [value for active in used for parts, value in named if active in parts]
