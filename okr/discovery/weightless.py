"""Makes weightless copies (twins) of modules. The forward of a twin needs no weights and no device, and has no hooks
and no side effects."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

_LOGGER = logging.getLogger("torch._subclasses.fake_tensor")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What accelerate and instance patches leave on a module. A twin lacks these and runs the forward of its class.
_DROPPED = ("forward", "_hf_hook", "_old_forward", "_okr_attachment")


@contextmanager
def weightless() -> Iterator[None]:
    """A context in which new tensors have a shape, a dtype and the device ``cpu`` but no memory, and in which autocast
    is off."""
    _LOGGER.addFilter(_silent)
    try:
        with torch.device("cpu"), torch.autocast("cpu", enabled=False), FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        _LOGGER.removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return False  # torch logs every failed operation as an error, but a failure here is an answer


def twin(module: nn.Module) -> nn.Module:
    """A copy of ``module`` without weights, hooks or patches. Make it and run it inside :func:`weightless`.

    The twin shares the attributes of ``module``. Its parameters and buffers are empty. What its forward sets is set on
    the twin alone.
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
