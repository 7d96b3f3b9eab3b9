"""Handles rotary embeddings whose scaling changes with the length: dynamic NTK and longrope.

Their frequencies depend on the longest sequence that a forward pass sees. A token's states therefore depend on the pass
that made them, and one pass over the whole sequence would give others. So a replay repeats the passes that a trace
recorded.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from okr.errors import UnsupportedGeneration

Limit = tuple[str, int | None]
"""``dynamic`` or ``longrope``, and the length from which it scales, or None if that is not known."""


class Scaling:
    """The rotary embeddings of a model that scale with the length. It is false if there are none."""

    def __init__(self, model: nn.Module) -> None:
        found = ((module, _limits(module)) for module in model.modules() if hasattr(module, "rope_type"))
        self.rotaries = [(module, limits) for module, limits in found if limits]
        self.limits = sorted({limit for _, limits in self.rotaries for limit in limits}, key=str)
        if not self.rotaries:  # a model with code of its own: only its configuration tells
            self.limits = _configured(getattr(model, "config", None))
            self.rotaries = [(module, self.limits) for module in model.modules() if self.limits and _turns(module)]

    def __bool__(self) -> bool:
        return bool(self.limits)

    def stage(self, length: int) -> tuple[int, ...]:
        """A value that decides the frequencies at ``length``. Passes with the same value can be replayed as one."""
        return tuple(
            length if limit is None else int(length > limit) if kind == "longrope" else max(length, limit)
            for kind, limit in self.limits
        )

    def reached(self) -> int:
        """The length to which earlier use has scaled the model, or 0 if it is not scaled."""
        found = (
            (int(value), limit)
            for module, limits in self.rotaries
            for kind, limit in limits
            if kind == "dynamic" and limit is not None
            for value in _lengths(module).values()
        )
        return max((value for value, limit in found if value > limit), default=0)

    def outlasting(self, reached: int, length: int) -> int:
        """``reached`` if the model is still scaled to it after a pass of ``length``, else 0."""
        held = (kind == "dynamic" and limit is not None and limit <= length < reached for kind, limit in self.limits)
        return reached if any(held) else 0

    def refuse_changes(self, lengths: Iterable[int], reached: int) -> None:
        """Raise UnsupportedGeneration if passes of these ``lengths``, in a model scaled to ``reached``, differ in their
        scaling. States then depend on where a sequence begins, which a trace does not say."""
        if len({self.stage(max(length, reached)) for length in lengths}) > 1:
            raise UnsupportedGeneration(
                "positions count the padding, and this model's rotary scaling changed on the way, which no trace can "
                "hold: call the model with position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0)"
            )

    @contextmanager
    def shown_whole(self, model: nn.Module) -> Iterator[None]:
        """Raise UnsupportedGeneration within the block at a forward pass that sees the end of a sequence without its
        beginning and without a cache. Some releases of transformers do that at the token from which longrope scales,
        after they dropped the cache."""

        def check(module: nn.Module, args: Any, given: dict[str, Any]) -> None:
            shown, mask = given.get("input_ids"), given.get("attention_mask")
            if given.get("past_key_values") is not None or not isinstance(shown, Tensor):
                return
            if isinstance(mask, Tensor) and mask.shape[-1] > shown.shape[1]:
                raise UnsupportedGeneration(
                    f"{type(model).__name__} dropped its cache and was shown {shown.shape[1]} of {mask.shape[-1]} "
                    f"tokens, as this release of transformers does where longrope begins to scale: install a later "
                    f"one, or generate with use_cache=False"
                )

        hook = model.register_forward_pre_hook(check, with_kwargs=True) if self else None
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()

    @contextmanager
    def told(self, tell: Callable[[Tensor], None]) -> Iterator[None]:
        """Call ``tell`` within the block with how far each pass reaches in each row: positions [rows] on the device, or
        one for all rows if they are equal. The first rotary embedding tells it. Compiled passes are left out."""

        def listen(module: nn.Module, args: Any, given: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():
                return
            positions = _positions(module, args, given)
            if isinstance(positions, Tensor) and not positions.is_floating_point():
                tell(positions.reshape(-1, *positions.shape[-2:]).amax((0, -1)) + 1)

        hooks = [module.register_forward_pre_hook(listen, with_kwargs=True) for module, _ in self.rotaries[:1]]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def afresh(self) -> Iterator["Ahead"]:
        """Reset the scaling within the block, as after loading, and restore it afterwards. The :class:`Ahead` that the
        block gets can make passes scale as for a longer sequence."""
        ahead, undo = Ahead(), []
        try:
            for module, _ in self.rotaries:
                undo.append(_kept(module))
                _reset(module)
                undo += [
                    module.register_forward_pre_hook(ahead.before, with_kwargs=True).remove,
                    module.register_forward_hook(ahead.after).remove,
                ]
            yield ahead
        finally:
            for restore in undo:
                restore()


class Ahead:
    """Hooks that make rotary embeddings see one more position after those of a sequence. It lies ``tokens`` after the
    last one, where the longest sequence of the batch ended; 0 adds none."""

    tokens = 0

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Add the further position to the input of the rotary embedding ``module``."""
        if not self.tokens:
            return None
        positions = _positions(module, args, kwargs)
        positions = torch.cat([positions, positions.amax(-1, keepdim=True) + self.tokens], -1)
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": positions}
        place = _place(module)
        return (*args[:place], positions, *args[place + 1 :]), kwargs

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Remove the further position from its output."""
        if not self.tokens:
            return None
        if isinstance(output, Tensor):
            return output[..., :-1, :]
        return tuple(part[..., :-1, :] for part in output)


def _place(module: nn.Module) -> int:
    """Which argument of the rotary embedding ``module`` its positions are, counted from 0. It is the second one of a
    forward that does not name them."""
    names = [*inspect.signature(module.forward).parameters]
    return names.index("position_ids") if "position_ids" in names else 1


def _positions(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """The positions that the rotary embedding ``module`` is called with, or None if it gets none."""
    if "position_ids" in kwargs:
        return kwargs["position_ids"]
    return next(iter(args[_place(module) :]), None)


def _limits(module: nn.Module) -> list[Limit]:
    """The kinds of scaling of the rotary embedding ``module``, each with the length from which it scales."""
    kinds: Any = module.rope_type
    found: list[Limit] = []
    for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
        if "dynamic" in str(kind):
            found.append(("dynamic", getattr(module, "original_max_seq_len", None)))
        elif kind == "longrope":
            parameters = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
            parameters = parameters if layer_type is None else parameters.get(layer_type) or {}
            found.append(("longrope", parameters.get("original_max_position_embeddings")))
    return found


def _turns(module: nn.Module) -> bool:
    """Whether ``module`` looks like a rotary embedding: its class name says so, and its forward takes positions."""
    named = "rotary" in type(module).__name__.lower()
    return named and "position_ids" in inspect.signature(module.forward).parameters


def stretched(config: Any, room: int) -> int:
    """How many positions the rotary embeddings of a configuration with ``room`` positions can reach. Dynamic NTK
    multiplies these by its factor. Other scaling multiplies its original length by its factor."""
    for parameters in _scalings(config):
        factor = parameters.get("factor") or 1.0
        original = parameters.get("original_max_position_embeddings")
        if original is None and "dynamic" in _kind(parameters):
            original = config.max_position_embeddings
        room = max(room, int(factor * (original or 0)))
    return room


def _configured(config: Any) -> list[Limit]:
    """The first kind of scaling by length that a configuration names, also in its text part or for a layer type; empty
    if there is none."""
    kinds = map(_kind, _scalings(config))
    found: list[Limit] = [(kind, None) for kind in kinds if "dynamic" in kind or kind in ("longrope", "su")]
    return found[:1]


def _scalings(config: Any) -> list[dict[str, Any]]:
    """The parameters of all rotary scalings in a configuration, those of its text part and of layer types included."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    given = [getattr(part, name, None) for part in (config, text) for name in ("rope_parameters", "rope_scaling")]
    whole = [parameters for parameters in given if isinstance(parameters, dict)]
    return [part for parameters in whole for part in (parameters, *parameters.values()) if isinstance(part, dict)]


def _kind(parameters: dict[str, Any]) -> str:
    return str(parameters.get("rope_type", parameters.get("type")))


def _lengths(module: nn.Module) -> dict[str, Any]:
    """The attributes of a dynamic NTK embedding that hold the length to which it is scaled, one for each layer type."""
    return {name: value for name, value in vars(module).items() if name.endswith("max_seq_len_cached")}


def _reset(module: Any) -> None:
    """Undo the scaling of a dynamic NTK embedding. longrope keeps no state between passes."""
    for name in _lengths(module):
        prefix = name.removesuffix("max_seq_len_cached")
        original = getattr(module, f"{prefix}original_inv_freq", None)
        if original is not None and hasattr(module, "original_max_seq_len"):
            setattr(module, name, module.original_max_seq_len)
            module.register_buffer(f"{prefix}inv_freq", original.clone(), persistent=False)


def _kept(module: nn.Module) -> Callable[[], None]:
    """The function that restores the present attributes and buffers of ``module``. Buffers are restored in place. The
    attributes that every module of torch has are left alone."""
    common = vars(nn.Module())
    state = {name: value for name, value in vars(module).items() if name not in common}
    buffers = {name: (buffer, buffer.clone()) for name, buffer in module._buffers.items() if buffer is not None}

    def restore() -> None:
        for name in [name for name in vars(module) if name not in common and name not in state]:
            del module.__dict__[name]
        module.__dict__.update(state)
        for name, (buffer, value) in buffers.items():
            module._buffers[name] = buffer.copy_(value)

    return restore
