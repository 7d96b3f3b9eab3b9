"""Replays that do not show what was."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from okr.engines import choice
from okr.engines.choice import EVERY, Own
from okr.engines.transformers import TransformersEngine, families
from okr.engines.transformers.routings import Forced
from okr.traces import ModelIdentity
from okr.traces.weights import WeightSample

from . import Change, broken

module: Any = import_module("okr.engines.transformers.replay")
RIGHT = (
    "OKR-WEIGHT-001",
    "OKR-WEIGHT-002",
    "OKR-ATTACH-003",
    "OKR-ATTACH-004",
    "OKR-TRACE",
    "OKR-VERIFY-001",
    "OKR-VERIFY-004",
    "OKR-VERIFY-005",
)


def _forces(change: Change, edit: Callable[[Any, Tensor], Tensor]) -> None:
    """Force ``edit(site, experts)`` while what is shown stays what the trace says; negative experts are native."""
    forced = module._forced

    def changed(site: Any, experts: Tensor, observe: Any) -> Forced:
        routing: Forced = forced(site, experts, observe)
        routing.experts = edit(site, experts.clone())
        return routing

    change(module, "_forced", changed)


@broken("nothing is forced", fails=("OKR-REPLAY-001", "OKR-REPLAY-002"), passes=RIGHT)
def forces_nothing(change: Change) -> None:
    _forces(change, lambda site, experts: torch.full_like(experts, -1))


@broken("only the first layer is forced", fails=("OKR-REPLAY-001",), passes=RIGHT)
def forces_the_first_layer(change: Change) -> None:
    _forces(change, lambda site, experts: torch.full_like(experts, -1) if site.layer else experts)


@broken("the last token is not forced", fails=("OKR-REPLAY-001",), passes=(*RIGHT, "OKR-REPLAY-003"))
def forces_all_but_the_last(change: Change) -> None:
    def edit(site: Any, experts: Tensor) -> Tensor:
        experts[-1] = -1
        return experts

    _forces(change, edit)


@broken("the experts of the token before are forced", fails=("OKR-REPLAY-001", "OKR-REPLAY-002"), passes=RIGHT)
def forces_the_one_before(change: Change) -> None:
    _forces(change, lambda site, experts: experts.roll(1, 0))


def _inputs(change: Change, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    inputs = module._inputs
    change(module, "_inputs", lambda *arguments: edit(inputs(*arguments)))


@broken("positions twice as far apart", fails=("OKR-REPLAY-002",), passes=(*RIGHT[:-1], "OKR-REPLAY-001"))
def other_positions(change: Change) -> None:
    def edit(arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "position_ids": 2 * torch.arange(arguments["input_ids"].shape[1])[None]}

    _inputs(change, edit)


@broken("the first token masked", fails=("OKR-REPLAY-002",), passes=(*RIGHT, "OKR-REPLAY-001", "OKR-REPLAY-003"))
def masks_the_first(change: Change) -> None:
    def edit(arguments: dict[str, Any]) -> dict[str, Any]:
        mask = torch.ones_like(arguments["input_ids"])
        mask[:, 0] = 0
        return {**arguments, "attention_mask": mask}

    _inputs(change, edit)


class _ShowsRanked(Forced):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        self.observe(scores, hidden)
        own = native(EVERY)
        return torch.where(self.experts < 0, own, self.experts)


@broken(
    "probabilities shown for choice scores",
    fails=("OKR-REPLAY-002",),
    passes=(*RIGHT, "OKR-REPLAY-001", "OKR-REPLAY-003"),
)
def shows_probabilities(change: Change) -> None:
    change(module, "Forced", _ShowsRanked)


@broken(
    "models compared by shape alone", fails=("OKR-REPLAY-003",), passes=(*RIGHT, "OKR-REPLAY-001", "OKR-REPLAY-002")
)
def compares_shapes(change: Change) -> None:
    change(ModelIdentity, "difference", lambda self, other: "" if self.structure == other.structure else "structure")


@broken(
    "models compared by shape and routers",
    fails=("OKR-REPLAY-003",),
    passes=(*RIGHT, "OKR-REPLAY-001", "OKR-REPLAY-002"),
)
def compares_routers(change: Change) -> None:
    change(WeightSample, "agrees", lambda self, other: True)


@broken(
    "weights compared to the last bit", fails=("OKR-REPLAY-003",), passes=(*RIGHT, "OKR-REPLAY-001", "OKR-REPLAY-002")
)
def compares_bits(change: Change) -> None:
    change(WeightSample, "agrees", lambda self, other: self == other)


@broken("everything seen at once", fails=("OKR-REPLAY-002", "OKR-REPLAY-003"), passes=(*RIGHT, "OKR-REPLAY-001"))
def sees_everything_at_once(change: Change) -> None:
    change(module, "_passes", lambda trace, scaling: [])


def _after(change: Change, then: Callable[[nn.Module], Any]) -> None:
    replay = TransformersEngine.replay

    def replayed(self: Any, *arguments: Any) -> None:
        replay(self, *arguments)
        then(self.model)

    change(TransformersEngine, "replay", replayed)


@broken("evaluation mode left on", fails=("OKR-REPLAY-004",), passes=(*RIGHT, "OKR-REPLAY-001", "OKR-REPLAY-002"))
def leaves_evaluation_mode(change: Change) -> None:
    _after(change, lambda model: model.eval())


@broken(
    "a hook left on the model", fails=("OKR-REPLAY-004",), passes=("OKR-WEIGHT", "OKR-REPLAY-001", "OKR-REPLAY-002")
)
def leaves_a_hook(change: Change) -> None:
    _after(change, lambda model: model.register_forward_hook(lambda *_: None))


@broken(
    "logarithms left out on replay", fails=("OKR-REPLAY-002", "OKR-VERIFY-002"), passes=("OKR-WEIGHT", "OKR-REPLAY-001")
)
def no_logarithms(change: Change) -> None:
    class Shows(Forced):
        def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
            self.observe(choice.choice_scores(self.site, scores).exp(), hidden)
            return torch.where(self.experts < 0, native(EVERY), self.experts)

    change(module, "Forced", Shows)


@broken(
    "the capacity drops tokens again", fails=("OKR-REPLAY-001",), passes=(*RIGHT, "OKR-REPLAY-002", "OKR-REPLAY-003")
)
def capacity_in_force(change: Change) -> None:
    change(families.Capacity, "prepare_replay", lambda self, router: lambda: None)


@broken("dropped tokens are run", fails=("OKR-REPLAY-001",), passes=(*RIGHT, "OKR-REPLAY-002", "OKR-REPLAY-003"))
def runs_the_dropped(change: Change) -> None:
    change(families.Capacity, "drop", lambda self, output, dropped: output)


@broken(
    "the capacity not put back", fails=("OKR-REPLAY-004",), passes=("OKR-WEIGHT", "OKR-REPLAY-002", "OKR-REPLAY-003")
)
def leaves_no_capacity(change: Change) -> None:
    def prepare(self: Any, router: Any) -> Callable[[], None]:
        router.expert_capacity = families.UNLIMITED
        return lambda: None

    change(families.Capacity, "prepare_replay", prepare)
