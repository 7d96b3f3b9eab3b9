"""Reads which experts run in a model of mlx-lm.

Needs ``mlx`` and ``mlx-lm`` (on a machine without Apple's GPU also ``mlx-cpu``). Every MoE model of mlx-lm hands the
experts that its router chose to one of two layers; that call is where they are read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from okr.collect.routing import Routing
from okr.errors import RouterNotFound


@contextmanager
def collected(model: Any) -> Iterator[Routing]:
    """Collect the experts that run in ``model`` of mlx-lm within the block, one sequence at a time.

    The engine runs unchanged. Raises RouterNotFound if the model has no layer of experts.
    """
    from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

    layers = {
        id(module): int(re.findall(r"\d+", name)[0])
        for name, module in model.named_modules()
        if isinstance(module, SwitchGLU | SwitchMLP)
    }
    if not layers:
        raise RouterNotFound(f"{type(model).__name__} has no experts that mlx-lm's layers run")
    routing = Routing()
    kinds = {SwitchGLU: SwitchGLU.__call__, SwitchMLP: SwitchMLP.__call__}

    def reading(call: Any) -> Any:
        def read(module: Any, x: Any, indices: Any) -> Any:
            if id(module) in layers:
                routing.add(layers[id(module)], indices.reshape(-1, indices.shape[-1]))
            return call(module, x, indices)

        return read

    for kind, call in kinds.items():
        kind.__call__ = reading(call)  # type: ignore[method-assign]
    try:
        yield routing
    finally:
        for kind, call in kinds.items():
            kind.__call__ = call  # type: ignore[method-assign]
