"""Handles the router families that do more than choose experts and weigh them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from okr.discovery.exceptions import EXCEPTIONS
from okr.traces import NOTHING_RAN

UNLIMITED = 2**31 - 1


class Family:
    """The default, which holds for almost every router: the chosen experts run, and a replay needs no preparation."""

    def prepare_replay(self, module: nn.Module) -> Callable[[], None]:
        """Prepare ``module`` for forced routing, and return the function that undoes it."""
        return lambda: None

    def drop(self, output: Any, dropped: Tensor) -> Any:
        """The router's ``output`` in which the tokens where ``dropped`` [T] is True have no expert."""
        return output

    def ran(self, output: Any, chosen: Tensor) -> Tensor:
        """The experts that ran [T, k], given the router's ``output`` and the ``chosen`` experts [T, k]."""
        return chosen


class Capacity(Family):
    """Switch. The router's output is a one-hot mask, from which tokens beyond an expert's capacity are dropped.

    Capacities differ between a sequence that is generated token by token and the same sequence seen at once. Dropped
    tokens are therefore recorded as NOTHING_RAN. In a replay the trace says which tokens are dropped, and the capacity
    drops none.
    """

    def prepare_replay(self, module: nn.Module) -> Callable[[], None]:
        capacity = module.expert_capacity
        module.expert_capacity = UNLIMITED  # type: ignore[assignment]
        return lambda: setattr(module, "expert_capacity", capacity)

    def drop(self, output: Any, dropped: Tensor) -> Any:
        place = _mask_of(output)
        kept = output[place] * ~dropped.view(*output[place].shape[:-1], 1)
        return *output[:place], kept, *output[place + 1 :]

    def ran(self, output: Any, chosen: Tensor) -> Tensor:
        mask = output[_mask_of(output)]
        return torch.where(mask.flatten(0, -2).any(-1, keepdim=True), chosen, NOTHING_RAN)


def _mask_of(output: Any) -> int:
    """The index of the one-hot mask [..., E] in a router's output. The mask alone holds integers; its place differs
    between releases."""
    return 1 if output[0].is_floating_point() else 0


_KINDS: dict[str, Family] = {"capacity": Capacity()}


def family_of(module: nn.Module) -> Family:
    """The family of the router ``module``. :data:`okr.discovery.exceptions.EXCEPTIONS` lists the families that
    differ."""
    exception = EXCEPTIONS.get(type(module).__name__)
    return Family() if exception is None else _KINDS[exception.kind]
