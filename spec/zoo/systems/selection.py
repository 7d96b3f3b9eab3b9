"""Attached routers that choose the wrong experts."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from okr.engines import choice
from okr.engines.choice import EVERY, Own
from okr.engines.transformers import routings
from okr.engines.transformers.routings import Keyed
from okr.routing import Setting

from . import Change, broken, keyed

HARMLESS = (
    "OKR-WEIGHT-001",
    "OKR-WEIGHT-002",
    "OKR-ATTACH-001",
    "OKR-ATTACH-002",
    "OKR-ATTACH-003",
    "OKR-ATTACH-006",
    "OKR-TRACE",
    "OKR-REPLAY",
)
ALIKE = (
    *HARMLESS,
    "OKR-ATTACH-004",
    "OKR-ATTACH-008",
    "OKR-VERIFY-001",
    "OKR-VERIFY-004",
    "OKR-VERIFY-005",
    "OKR-VERIFY-007",
)


@keyed(
    "a watermark that does nothing",
    fails=("OKR-WEIGHT-003", "OKR-ATTACH-007", "OKR-VERIFY-002", "OKR-TEXT-003"),
    passes=HARMLESS,
)
class DoesNothing(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return native(EVERY)


@keyed("only the first layer is keyed", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class FirstLayerOnly(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return native(EVERY) if self.site.layer else super().choose(scores, hidden, native)


@keyed("the last token of a call stays native", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class SkipsTheLast(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return torch.cat([super().choose(scores, hidden, native)[:-1], native(EVERY)[-1:]])


@keyed("prompts stay native", fails=("OKR-WEIGHT-003", "OKR-ATTACH-007"), passes=HARMLESS)
class PromptsStay(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores, hidden, native) if len(scores) == 1 else native(EVERY)


@keyed("single tokens stay native", fails=("OKR-WEIGHT-003",), passes=ALIKE)
class SinglesStay(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return native(EVERY) if len(scores) == 1 else super().choose(scores, hidden, native)


@keyed("states less their mean over the batch", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class BatchCentred(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores, hidden - hidden.mean(0) * (len(hidden) > 1), native)


@keyed("the first token's states for all of a call", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class FirstForAll(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores, hidden[:1].expand_as(hidden).contiguous(), native)


@keyed("a token's key scores are its neighbour's", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class OffByOne(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores, hidden.roll(1, 0), native)


@keyed("states rounded to bfloat16 for the key", fails=("OKR-WEIGHT-003",), passes=ALIKE)
class RoughStates(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores, hidden.bfloat16().float(), native)


@keyed("experts that the family bars are let in", fails=("OKR-WEIGHT-003",), passes=HARMLESS)
class LetsInTheBarred(Keyed):
    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        return super().choose(scores.clamp(min=0.0), hidden, native)


class _OtherRule(Keyed):
    """With changed settings."""

    def __init__(self, site: Any, key: Any, setting: Setting, *rest: Any) -> None:
        super().__init__(site, key, self.changed(setting), *rest)

    def changed(self, setting: Setting) -> Setting:
        return setting


@keyed("twice the epsilon", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class TwiceEpsilon(_OtherRule):
    def changed(self, setting: Setting) -> Setting:
        return replace(setting, epsilon=2 * setting.epsilon)


@keyed("always the max zone", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class AlwaysMax(_OtherRule):
    def changed(self, setting: Setting) -> Setting:
        return replace(setting, zone="max")


@keyed("strength ignored", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
class IgnoresStrength(_OtherRule):
    def changed(self, setting: Setting) -> Setting:
        return replace(setting, strength=float("inf"))


@keyed("epsilon = 0 taken as 0.01", fails=("OKR-WEIGHT-001",), passes=("OKR-WEIGHT-002", *ALIKE[2:]))
class NeverZero(_OtherRule):
    def changed(self, setting: Setting) -> Setting:
        return replace(setting, epsilon=max(setting.epsilon, 0.01))


@broken("probabilities ranked, not their logarithms", fails=("OKR-WEIGHT-003", "OKR-REPLAY-002"), passes=ALIKE[:-1])
def ranks_probabilities(change: Change) -> None:
    change(routings, "choice_scores", lambda site, scores: scores)


class _FirstLayers(choice.Projector):
    def __init__(self, site: Any, key: Any) -> None:
        super().__init__(replace(site, layer=0), key)


@broken("one projection for all layers", fails=("OKR-WEIGHT-003", "OKR-VERIFY-002"), passes=HARMLESS)
def one_for_all_layers(change: Change) -> None:
    change(routings, "Projector", _FirstLayers)
