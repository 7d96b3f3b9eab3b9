"""Copies of a small model under adapters, or with weights of which not all are at hand."""

from collections.abc import Callable
from typing import Any

Make = Callable[[], Any]


def plain_copy() -> Any:
    """A copy of the softmax model."""
    from . import system

    return system.copied(system.softmax_model())


def put_around(model: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """The model with what ``make`` makes of its module ``name`` in the place of that."""
    holder, _, own = name.rpartition(".")
    parent = model.get_submodule(holder)
    setattr(parent, own, make(getattr(parent, own)))
    return model


QUERY, VALUE = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


def adapted(*names: str, where: str = QUERY, **way: Any) -> Any:
    """A copy with an adapter layer, with an adapter of each of ``names``, around the module ``where``."""
    from .lora import Lora

    return put_around(plain_copy(), where, lambda base: Lora(base, *names, **way))


def layer_of(model: Any, where: str = QUERY) -> Any:
    """The module ``where`` of the model."""
    return model.get_submodule(where)


def merged_copy(model: Any, where: str = QUERY) -> Any:
    """The model with the adapters in the weights, and no adapter layer."""
    while hasattr(layer := layer_of(model, where), "merged_adapters"):
        layer.merge()
        put_around(model, where, lambda outer: outer.base_layer)
    return model


def _nested() -> Any:
    """Two adapter layers, one around the other, of which the inner one must be merged to be read."""
    from .lora import Lora

    return put_around(adapted(variant=True, seed=3), QUERY, lambda inner: Lora(inner, seed=4))


def _with_bias(model: Any, where: str = QUERY) -> Any:
    import torch
    from torch import nn

    layer = layer_of(model, where)
    layer = getattr(layer, "base_layer", layer)
    layer.bias = nn.Parameter(torch.linspace(-1, 1, len(layer.weight)))
    return model


def _biased() -> Any:
    """An adapter that adds a bias to a layer which has one."""
    from .lora import Lora

    return put_around(_with_bias(plain_copy()), QUERY, lambda base: Lora(base, biased=True))


def _turned() -> Any:
    """A layer whose weight is stored the other way, under an adapter."""
    import torch
    from torch import nn

    from .lora import Lora

    def make(base: Any) -> Any:
        base.weight = nn.Parameter(torch.cat([base.weight, base.weight[:5]]).T.contiguous())
        return Lora(base, turned=True)

    return put_around(plain_copy(), QUERY, make)


_EXPERTS = "model.layers.1.mlp.experts"


def stacked(name: str, where: str = _EXPERTS, **way: Any) -> Any:
    """A copy with an adapter layer around the module ``where`` that changes its parameter ``name``."""
    from .lora import StackedLora

    return put_around(plain_copy(), where, lambda base: StackedLora(base, name, **way))


MERGEABLE: dict[str, tuple[Make, str]] = {
    "an adapter": (adapted, QUERY),
    "an adapter of another training": (lambda: adapted(seed=1), QUERY),
    "an adapter elsewhere": (lambda: adapted(where=VALUE), VALUE),
    "two adapters": (lambda: adapted("first", "second"), QUERY),
    "an adapter with a bias": (_biased, QUERY),
    "an adapter of a variant": (lambda: adapted(variant=True), QUERY),
    "an adapter of another kind": (lambda: adapted(kind="other", seed=7), QUERY),
    "an adapter of parameters": (lambda: adapted(kind="parameters", seed=8), QUERY),
    "an adapter as of an embedding": (lambda: adapted(kind="embedding", seed=9), QUERY),
    "an adapter without a scale": (lambda: _unscaled(adapted()), QUERY),
    "an adapter of a weight stored the other way": (_turned, QUERY),
    "an adapter of the experts": (lambda: stacked("gate_up_proj"), _EXPERTS),
    "an adapter of the experts' other matrices": (lambda: stacked("down_proj"), _EXPERTS),
    "an adapter of the experts that keeps its factors": (
        lambda: stacked("gate_up_proj", seed=1, told=False),
        _EXPERTS,
    ),
    "an adapter around another": (_nested, QUERY),
    "an adapter of a parameter": (lambda: stacked("weight", VALUE), VALUE),
}


def _unscaled(model: Any) -> Any:
    layer_of(model).scaling = {}
    return model


def with_another_behind(variant: bool, number: float) -> Any:
    """A plain adapter, and behind it one that cannot be merged, a variant or with a new bias, moved by ``number``."""
    import torch

    from .lora import Lora

    where = "model.layers.1.self_attn.q_proj"
    model = put_around(
        adapted(), where, lambda base: Lora(base, variant=variant, stubborn=variant, biased=not variant, seed=2)
    )
    up = layer_of(model, where).ups["default"]
    with torch.no_grad():
        (up.weight if variant else up.bias).add_(number)
    return model


def with_tasks(number: float) -> Any:
    """An adapter that chooses by the token among others, one of which is moved by ``number``."""
    import torch

    model = adapted("default", "second", stubborn=True, variant=True)
    layer = layer_of(model)
    layer.active_adapters, layer.task_adapter_names = ["default"], ["second"]
    with torch.no_grad():
        layer.ups["second"].weight.add_(number)
    return model


def quantised(model: Any, where: str = QUERY) -> Any:
    """The model with one matrix in whole numbers."""
    import torch
    from torch import nn

    layer = layer_of(model, where)
    layer = getattr(layer, "base_layer", layer)
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    return model


def offloaded(model: Any, where: str = QUERY) -> Any:
    """The model without the content of the module ``where``."""
    layer_of(model, where).to("meta")
    return model


def renamed(model: Any) -> Any:
    """The model with one matrix of each layer under another name, as other programs store it."""
    from torch import nn

    def stored(layer: Any) -> Any:
        holder = nn.Module()
        holder.matrix = nn.Parameter(layer.weight.detach().flip(0))
        return holder

    for number in (0, 1):
        put_around(model, f"model.layers.{number}.self_attn.q_proj", stored)
    return model


def rich(model: Any, name: str, value: float) -> Any:
    """The model with weights of 72 kinds more, all in its part ``name``, all of them 1 but for the first."""
    import torch
    from torch import nn

    parts = {f"part{first}{second}": torch.ones(4) for first in "abcdefgh" for second in "abcdefghi"}
    parts["partaa"] = value * parts["partaa"]
    setattr(model, name, nn.ParameterDict({part: nn.Parameter(weight) for part, weight in parts.items()}))
    return model
