"""Models with rotary embeddings of their own code: that these scale by the length, their configuration alone says."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .models import growing_model, stretched_model, unscaled_model

LIMIT = 12
"""The number of tokens past which they scale."""


class OwnRotary(nn.Module):
    """Angles that each token past the twelfth makes smaller; they are divided by ``slower``, too."""

    def forward(self, x: Tensor, position_ids: Tensor, slower: Any = 1.0) -> tuple[Tensor, Tensor]:
        return _turned(_angles(position_ids) / slower, x)


class KeepingRotary(OwnRotary):
    """The same; it notes how long a sequence it saw last, and how long the longest was."""

    _longest = 0

    def forward(self, x: Tensor, position_ids: Tensor, slower: Any = 1.0) -> tuple[Tensor, Tensor]:
        self.last = int(position_ids.max()) + 1
        self._longest = max(self._longest, self.last)
        return super().forward(x, position_ids, slower)


class AnglesRotary(nn.Module):
    """The same as one tensor, which the model makes cosines and sines of."""

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        return _angles(position_ids)


class LaterRotary(nn.Module):
    """The same, with positions as its third argument."""

    def forward(self, x: Tensor, slower: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return _turned(_angles(position_ids) / slower.mean(), x)


class UnnamedRotary(nn.Module):
    """One that says itself that it scales by the length, and does not name its arguments."""

    rope_type = "dynamic"

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        return _turned(_angles(given[1]), given[0])


class TypedRotary(nn.Module):
    """One that says itself how it scales layers of a type; those of one type have other angles past the twelfth
    token (longrope)."""

    rope_type: ClassVar = {"local": "default", "full": "longrope"}

    def __init__(self) -> None:
        super().__init__()
        kinds = {"local": {"rope_type": "default"}, "full": {"original_max_position_embeddings": LIMIT}}
        self.config = SimpleNamespace(rope_parameters=kinds)
        self.max_seq_len_cached, self.original_inv_freq = LIMIT, torch.ones(8)

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str) -> tuple[Tensor, Tensor]:
        seen = (position_ids.max() + 1).clamp(max=LIMIT + 1)
        return _turned(_angles(position_ids, seen if self.rope_type[layer_type] == "longrope" else 0 * seen), x)


def _angles(position_ids: Tensor, seen: Tensor | None = None) -> Tensor:
    """Angles for a sequence of ``seen`` tokens; None: for the longest that is seen."""
    seen = position_ids.max() + 1 if seen is None else seen
    base = torch.where(seen > LIMIT, 1000.0 * seen, torch.tensor(100.0))
    return position_ids[..., None] / base ** (torch.arange(8) / 8)


def _turned(angles: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of two halves of equal angles, in the dtype of ``x``."""
    both = torch.cat([angles, angles], -1)
    return both.cos().to(x.dtype), both.sin().to(x.dtype)


class Places(nn.Module):
    """Where a model calls its rotary embedding, in one of the ways of ``CALLS``."""

    def __init__(self, rotary: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.call = rotary, call

    def forward(self, x: Tensor, position_ids: Tensor) -> Any:
        return self.call(self.inner, x, position_ids)


def _by_axes(rotary: Any, x: Tensor, positions: Tensor) -> Any:
    """Three axes of positions, as for pictures. Those of the second and third are coarser."""
    cosines, sines = rotary(x, torch.stack([positions, positions // 2, positions // 4]))
    return cosines[0] + cosines[1] - cosines[2], sines.mean(0)


CALLS: dict[str, tuple[type[nn.Module], Callable[..., Any]]] = {
    "positions by keyword": (OwnRotary, lambda rotary, x, positions: rotary(x, position_ids=positions)),
    "positions second": (OwnRotary, lambda rotary, x, positions: rotary(x, positions)),
    "positions second of three": (OwnRotary, lambda rotary, x, positions: rotary(x, positions, 0.5)),
    "positions of three axes": (OwnRotary, _by_axes),
    "a note kept": (KeepingRotary, lambda rotary, x, positions: rotary(x, positions)),
    "positions third": (LaterRotary, lambda rotary, x, positions: rotary(x, torch.full((1, 1), 64.0), positions)),
    "a layer type": (TypedRotary, lambda rotary, x, positions: rotary(x, positions, "full")),
    "positions without a name": (UnnamedRotary, lambda rotary, x, positions: rotary(x, positions, x)),
    "positions between numbers": (OwnRotary, lambda rotary, x, positions: rotary(x, positions + 0.5)),
    "one tensor returned": (AnglesRotary, lambda rotary, x, positions: _turned(rotary(x, positions), x)),
}


class OwnModel(nn.Module):
    """A Mixtral-like model, which has a configuration ``config`` of its own kind and no ``generate``."""

    def __init__(self, config: Any, rotary: nn.Module) -> None:
        super().__init__()
        self.config, self.decoder = config, copy.deepcopy(unscaled_model())
        self.decoder.model.rotary_emb = rotary

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **given: Any) -> Any:
        return self.decoder(input_ids=input_ids, position_ids=position_ids, **given)


class WithText(SimpleNamespace):
    """A configuration with a part for text."""

    def get_text_config(self) -> Any:
        return self.text


_DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
CONFIGURATIONS: dict[str, Any] = {
    "rope_parameters": SimpleNamespace(rope_parameters=_DYNAMIC),
    "rope_scaling": SimpleNamespace(rope_scaling={"type": "dynamic", "factor": 4.0}),
    "longrope": SimpleNamespace(rope_scaling={"rope_type": "longrope"}),
    "su": SimpleNamespace(rope_scaling={"type": "su"}),
    "a layer type": SimpleNamespace(rope_parameters={"full": _DYNAMIC, "local": {"rope_type": "default"}}),
    "a text part": WithText(rope_parameters=None, text=SimpleNamespace(rope_parameters=_DYNAMIC)),
}
"""The ways in which a configuration says that positions are scaled by the length."""


_SHORTER = {"original_max_position_embeddings": 6}
ROOMS: tuple[tuple[Any, int], ...] = (
    ({"rope_parameters": {"rope_type": "default"}}, LIMIT),
    ({"rope_parameters": _DYNAMIC}, 4 * LIMIT),
    ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 4 * LIMIT),
    ({"rope_parameters": {**_DYNAMIC, **_SHORTER}}, 24),
    ({"rope_parameters": {"full": _DYNAMIC, "local": {"rope_type": "default"}}}, 4 * LIMIT),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 5.0, **_SHORTER}}, 30),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 1.5, **_SHORTER}}, LIMIT),
    ({"rope_parameters": {"rope_type": "linear", "factor": 32.0}}, LIMIT),
)
"""What a configuration with 12 positions says of their scaling, and how many positions there are with it."""


def own_model(configuration: str = "rope_parameters", call: str = "positions by keyword") -> Any:
    """A new model that is configured in one way and calls its rotary embedding in another."""
    rotary, way = CALLS[call]
    return OwnModel(CONFIGURATIONS[configuration], Places(rotary(), way)).eval()


def roomy_model(said: dict[str, Any]) -> Any:
    """A new model whose configuration has 12 positions and says this of their scaling."""
    config = SimpleNamespace(max_position_embeddings=LIMIT, **said)
    return OwnModel(config, Places(OwnRotary(), CALLS["positions second"][1])).eval()


class Halves(nn.Module):
    """Two rotary embeddings of which a model takes the mean. The second counts as one position what are ``coarser``."""

    def __init__(self, first: nn.Module, second: nn.Module, coarser: int) -> None:
        super().__init__()
        self.first, self.second, self.coarser = first, second, coarser

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(self.first(x, position_ids), self.second(x, position_ids // self.coarser), strict=True)
        return tuple((first + second) / 2 for first, second in pairs)


def two_scalings(second: str) -> Any:
    """A new Mixtral-like model of two scalings. The first grows from the twelfth token on; the second grows from a
    later one on, or is another from the twelfth token or the twelfth pair of tokens on."""
    model, grown = copy.deepcopy(unscaled_model()), growing_model()
    first, other = grown.model.rotary_emb, stretched_model().model.rotary_emb
    if second == "later":
        config = copy.deepcopy(grown.config)
        config.max_position_embeddings = 2 * LIMIT
        other = type(first)(config)
    model.model.rotary_emb = Halves(first, other, 2 if second == "pairs" else 1)
    return model
