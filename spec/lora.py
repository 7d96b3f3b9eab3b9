"""Adapter layers in models, laid out as peft's are, and what they add to the weights around which they lie.

Whoever reads a model under adapters knows them by these attributes; peft itself is not needed.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Lora(nn.Module):
    """An adapter layer around ``base_layer``, with an adapter of rank 2 for each of ``names``.

    ``turned``: the weight is stored [inputs, outputs]. ``biased``: the adapters add a bias as well. ``variant``: the
    product is scaled by what no plain LoRA knows. ``stubborn``: merging fails. ``kind``: how the factors are held, as
    in a LoRA, as parameters, elsewhere beside none (an embedding's), or elsewhere.
    """

    def __init__(
        self,
        base: nn.Module,
        *names: str,
        seed: int = 0,
        turned: bool = False,
        biased: bool = False,
        variant: bool = False,
        stubborn: bool = False,
        kind: str = "lora",
    ) -> None:
        super().__init__()
        self.base_layer = base
        self.merged_adapters: list[str] = []
        self.active_adapters = list(names) or ["default"]
        self.disable_adapters = False
        self.fan_in_fan_out, self.stubborn = turned, stubborn
        weight: Any = base.weight
        outputs, inputs = reversed(weight.shape) if turned else weight.shape
        numbers = torch.Generator().manual_seed(seed)
        self.scaling = {name: 0.5 + place for place, name in enumerate(self.active_adapters)}
        self.lora_bias = dict.fromkeys(self.active_adapters, biased)
        self.lora_variant = dict.fromkeys(self.active_adapters, "scaled") if variant else {}
        self.downs = nn.ModuleDict()
        self.ups = nn.ModuleDict()
        for name in self.active_adapters:
            self.downs[name] = _filled(nn.Linear(inputs, 2, bias=False), numbers)
            self.ups[name] = _filled(nn.Linear(2, outputs, bias=biased), numbers)
        parts: Any = {"lora": lambda part: part, "parameters": _parameters, "embedding": lambda _: nn.ModuleDict()}
        if kind in parts:
            self.lora_A, self.lora_B = parts[kind](self.downs), parts[kind](self.ups)

    @property
    def weight(self) -> Any:
        """That of the layer inside."""
        return self.base_layer.weight

    def _get_available_adapters(self) -> set[str]:
        return set(self.downs)

    @torch.no_grad()
    def added(self, name: str) -> Tensor:
        """What an adapter adds to the weight."""
        up: Any = self.ups[name]
        down: Any = self.downs[name]
        product: Tensor = (
            up.weight @ down.weight * self.scaling.get(name, 3.0) * (1.5 if name in self.lora_variant else 1.0)
        )
        return product.T if self.fan_in_fan_out else product

    @torch.no_grad()
    def _write(self, names: list[str], sign: int) -> None:
        if self.stubborn:
            raise NotImplementedError("the tokens decide what is added")
        base: Any = self.base_layer
        for name in names:
            up: Any = self.ups[name]
            base.weight.add_(sign * self.added(name))
            if self.lora_bias[name]:
                base.bias.add_(sign * up.bias * self.scaling.get(name, 3.0))

    def merge(self) -> None:
        """Write the active adapters into the weight."""
        names = [name for name in self.active_adapters if name in self.downs]
        self._write(names, 1)
        self.merged_adapters += names

    def unmerge(self) -> None:
        """Take the merged adapters out of the weight again."""
        self._write(self.merged_adapters, -1)
        self.merged_adapters = []


class StackedLora(nn.Module):
    """An adapter layer around a module with the parameter ``name``, a matrix or one for each expert. ``stubborn``:
    merging fails. ``told``: whether it gives its factors away, as the layers of new releases do."""

    def __init__(self, base: nn.Module, name: str, seed: int = 0, stubborn: bool = False, told: bool = True) -> None:
        super().__init__()
        self.base_layer, self.parameter_name = base, name
        self.merged_adapters: list[str] = []
        self.active_adapters, self.disable_adapters = ["default"], False
        self.scaling = {"default": 0.75}
        self.stubborn = stubborn
        *stacked, outputs, inputs = getattr(base, name).shape
        experts = stacked[0] if stacked else 1
        numbers = torch.Generator().manual_seed(seed)
        self.lora_A = nn.ModuleDict({"default": _filled(nn.Linear(inputs, 2 * experts, bias=False), numbers)})
        self.lora_B = nn.ModuleDict({"default": _filled(nn.Linear(2 * experts, outputs, bias=False), numbers)})
        self.stacked, self.experts = bool(stacked), experts
        if told:
            self.get_delta_factors = self.factors

    def _get_available_adapters(self) -> set[str]:
        return {"default"}

    def factors(self, name: str) -> tuple[Tensor, Tensor, Any]:
        """The factors [experts, outputs, rank] and [experts, rank, inputs] of what an adapter adds, or those of a
        matrix."""
        up: Any = self.lora_B[name].weight
        down: Any = self.lora_A[name].weight
        if not self.stacked:
            return up, down, None
        return (
            up.view(len(up), 2, self.experts).permute(2, 0, 1),
            down.view(self.experts, 2, -1),
            None,
        )

    @torch.no_grad()
    def merge(self) -> None:
        """Write the adapter into the parameter."""
        if self.stubborn:
            raise NotImplementedError("the tokens decide what is added")
        left, right, _ = self.factors("default")
        getattr(self.base_layer, self.parameter_name).add_(left @ right, alpha=self.scaling["default"])
        self.merged_adapters = ["default"]


def _parameters(layers: nn.ModuleDict) -> nn.ParameterDict:
    """The weights of some layers, without the layers."""
    return nn.ParameterDict({name: layer.weight for name, layer in layers.items()})


def _filled(layer: Any, numbers: torch.Generator) -> nn.Module:
    """A layer with random weights."""
    with torch.no_grad():
        for value in layer.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=numbers))
    made: nn.Module = layer
    return made
