"""Notices when a kernel or a recomputation bypasses the attached routers, and raises an error."""

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _top_saved_tensors_default_hooks as _saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from okr.errors import UnsupportedRouter


class Guard:
    """Raises UnsupportedRouter in two cases. A forward of the whole model ran no attached router: kernels may bypass
    them. Or a backward would recompute a checkpointed forward after the routers were detached, and so with another
    choice of experts.

    It is a forward hook of the model. A copy or pickle of it does nothing.
    """

    def __init__(self, idle: bool = False) -> None:
        self.ran = idle
        self.left = False
        self.here = threading.local()

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        if not self.ran:
            raise UnsupportedRouter(
                f"a forward of {type(model).__name__} ran none of its keyed routers: its experts are chosen elsewhere "
                f"(by a kernel?), so nothing would be keyed"
            )
        self.watch(model, args, output)
        self.here.recomputed = False

    def watch(self, module: nn.Module, args: Any, output: Any) -> None:
        """Make a backward from ``output`` raise if it would recompute a forward whose routing is no longer attached."""
        if not getattr(self.here, "recomputed", False) or not torch.is_grad_enabled():
            return
        for part in tree_leaves(dict(output) if isinstance(output, dict) else output):
            if isinstance(part, Tensor) and part.requires_grad:
                part.register_hook(self._before_backward)

    def note_router(self) -> None:
        """Note that a router ran. A backward may run it again if its forward keeps no gradients, or if hooks take the
        tensors that it saves, as in checkpointing."""
        self.ran = True
        if torch.compiler.is_compiling():
            return
        if not torch.is_grad_enabled() or _saved_tensors_hooks(True) is not None:
            self.here.recomputed = True

    def _before_backward(self, gradient: Tensor) -> None:
        if self.left:
            raise UnsupportedRouter(
                "backward() would recompute a checkpointed forward whose routing is no longer attached, and so give "
                "gradients of another choice of experts: call backward() inside the block"
            )

    def __reduce__(self) -> Any:
        return Guard, (True,)
