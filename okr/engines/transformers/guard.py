"""The guard of an attached model: it tells when kernels or recomputation bypass the attached routers."""

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _top_saved_tensors_default_hooks as _saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from okr.errors import UnsupportedRouter


class Guard:
    """Raises after a forward of the whole model in which no attached router ever ran: kernels may bypass them; and in a
    backward that would recompute a checkpointed forward after the routers were taken out: it would recompute another.

    Hooked to the model; a copy or pickle of it is idle.
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
        """Have a backward from ``output`` look first whether what it may recompute is still attached."""
        if not getattr(self.here, "recomputed", False) or not torch.is_grad_enabled():
            return
        for part in tree_leaves(dict(output) if isinstance(output, dict) else output):
            if isinstance(part, Tensor) and part.requires_grad:
                part.register_hook(self._before_backward)

    def note_router(self) -> None:
        """A router runs. Where its forward keeps no gradients, or hands what it saves to hooks, as checkpointing does,
        a backward may run it again."""
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
