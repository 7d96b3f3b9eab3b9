"""What the engine does for routers that do more than choose and weigh."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from okr.discovery.exceptions import EXCEPTIONS
from okr.traces import NOTHING_RAN

UNLIMITED = 2**31 - 1


class Family:
    """What holds for almost every router: the chosen experts run, and nothing needs to be set up."""

    def prepare_replay(self, module: nn.Module) -> Callable[[], None]:
        """Set ``module`` up for forced routing; returns what undoes it."""
        return lambda: None

    def drop(self, output: Any, dropped: Tensor) -> Any:
        """The router's output with ``dropped`` [T], tokens that a replay must leave without an expert, taken out."""
        return output

    def ran(self, output: Any, chosen: Tensor) -> Tensor:
        """The experts that ran [T, k], given the router's output and what it chose [T, k]."""
        return chosen


class Capacity(Family):
    """Switch: its output is a one-hot mask in which tokens beyond an expert's capacity are dropped.

    A sequence that was generated token by token met other capacities than the same sequence seen at once. So dropped
    tokens are recorded as NOTHING_RAN, and in a replay the trace says what is dropped, not the capacity.
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
    """Where a router's output has its one-hot mask [..., E]: it alone holds integers, and releases order them apart."""
    return 1 if output[0].is_floating_point() else 0


_KINDS: dict[str, Family] = {"capacity": Capacity()}


def family_of(module: nn.Module) -> Family:
    """How a router module's family is handled; :data:`okr.discovery.exceptions.EXCEPTIONS` says which and why."""
    exception = EXCEPTIONS.get(type(module).__name__)
    return Family() if exception is None else _KINDS[exception.kind]
