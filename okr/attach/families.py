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

    def finish(self, output: Any, chosen: Tensor, dropped: Tensor | None) -> tuple[Any, Tensor]:
        """The router's final output and the experts that ran [T, k]; ``dropped`` [T] are tokens that a replay must
        leave without an expert."""
        return output, chosen


class Capacity(Family):
    """Switch: its output is a one-hot mask in which tokens beyond an expert's capacity are dropped.

    A sequence that was generated token by token met other capacities than the same sequence seen at once. So dropped
    tokens are recorded as NOTHING_RAN, and in a replay the trace says what is dropped, not the capacity.
    """

    def prepare_replay(self, module: nn.Module) -> Callable[[], None]:
        capacity = module.expert_capacity
        module.expert_capacity = UNLIMITED  # type: ignore[assignment]
        return lambda: setattr(module, "expert_capacity", capacity)

    def finish(self, output: Any, chosen: Tensor, dropped: Tensor | None) -> tuple[Any, Tensor]:
        mask, weight, logits = output
        if dropped is not None:
            mask = mask * ~dropped.view(*mask.shape[:-1], 1)
        ran = mask.flatten(0, -2).any(-1, keepdim=True)
        return (mask, weight, logits), torch.where(ran, chosen, NOTHING_RAN)


_KINDS: dict[str, Family] = {"capacity": Capacity()}


def family_of(module: nn.Module) -> Family:
    """How a router module's family is handled; :data:`okr.discovery.exceptions.EXCEPTIONS` says which and why."""
    exception = EXCEPTIONS.get(type(module).__name__)
    return Family() if exception is None else _KINDS[exception.kind]
