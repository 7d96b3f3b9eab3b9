"""Weightless twins of modules: what a forward does can be watched without weights, devices, hooks or side effects."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

_LOGGER = logging.getLogger("torch._subclasses.fake_tensor")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What accelerate and instance patches leave on a module; the twin runs its class's own forward.
_DROPPED = ("forward", "_hf_hook", "_old_forward", "_okr_attachment")


@contextmanager
def weightless() -> Iterator[None]:
    """A context in which new tensors have a shape, a dtype and the device ``cpu``, but no memory; autocast is off."""
    _LOGGER.addFilter(_silent)
    try:
        with torch.device("cpu"), torch.autocast("cpu", enabled=False), FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        _LOGGER.removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return False  # torch logs every failing operation as an error; here failures are answers


def twin(module: nn.Module) -> nn.Module:
    """``module`` as it would be without weights, hooks or patches; make and run it inside :func:`weightless`.

    Attributes are shared, parameters and buffers are empty copies: whatever the twin's forward sets stays with it.
    """
    copy: nn.Module = object.__new__(getattr(type(module), "_okr_native", type(module)))
    state = {name: value for name, value in module.__dict__.items() if name not in _DROPPED}
    state |= {name: OrderedDict() for name in _HOOKS}
    state["_parameters"] = {name: _empty(value) for name, value in module._parameters.items()}
    state["_buffers"] = {name: _empty(value) for name, value in module._buffers.items()}
    state["_modules"] = {name: child and twin(child) for name, child in module._modules.items()}
    copy.__dict__.update(state)
    return copy


def _empty(value: Tensor | None) -> Tensor | None:
    if value is None:
        return None
    empty = torch.empty(value.shape, dtype=value.dtype, device="cpu")
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty
