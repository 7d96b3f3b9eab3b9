"""Chapter BAKE: what whole checkpoints show of a key."""

import math
from typing import Any

from .. import baking
from ..cases import Found, InspectCase
from ..subject import Subject
from ..verdicts import require
from . import check
from .bake_checkpoints import SECRET, SHAPES, gate_weights, measured_gates, new_folder, with_key, written


def _inspected(*, fewer: bool = False, measured: bool = False) -> None:
    """Violation unless checkpoints with the key and without it show what the oracle finds; with ``fewer`` experts, or
    with the original at hand that was ``measured``."""
    from okr import Key
    from okr.baking import inspect

    weights = gate_weights()
    gates = measured_gates(weights).gates
    with new_folder() as folder:
        source = written(folder / "source", weights)
        for name, stored in (("baked", with_key(weights, 3.0)), ("plain", weights)):
            if fewer:
                stored = {tensor: weight[-2:] for tensor, weight in stored.items()}
            if name == "plain" and measured:
                continue
            place = written(folder / name, stored)
            for secret in (SECRET, bytes(16)):
                found = inspect(place, Key(secret), gates, original=source if measured else None)
                _require_inspected(found, secret, stored, weights if measured else None)


@check("OKR-BAKE-005")
def checkpoints_are_inspected_by_their_gates(subject: Subject) -> None:
    """All together and each by itself; a p-value of alpha is enough, and gates of zeros show nothing."""
    from okr import Key
    from okr.baking import inspect

    _inspected()
    weights, key = gate_weights(), Key(SECRET)
    gates = measured_gates(weights).gates
    with new_folder() as folder:
        baked = written(folder / "baked", with_key(weights, 6.0))
        found = inspect(baked, key, gates)
        require(found.rank_p == 1 / 1000, "the rank of a key that is there", expected=1 / 1000, got=found)
        again = inspect(baked, key, gates, decoys=19, alpha=found.p_value)
        require((again.rank_p, again.p_value) == (1 / 20, found.p_value), "19 images", got=again)
        require(again.carried and again.as_dict()["carried"] is True, "a p-value of alpha is enough", got=again)
        nothing = written(folder / "nothing", {name: weight * 0 for name, weight in weights.items()})
        found = inspect(nothing, key, gates)
    got = (found.z, found.p_value, found.rank_p, found.carried)
    require(got == (0.0, 1.0, 1.0, False), "gates of zeros", expected=(0.0, 1.0, 1.0, False), got=got)
    require("show nothing" in str(found) and "carry" in str(again), "the verdict in words", got=(found, again))


@check("OKR-BAKE-006")
def checkpoints_with_fewer_experts_are_inspected(subject: Subject) -> None:
    """The last two of every gate are left."""
    _inspected(fewer=True)


@check("OKR-BAKE-007")
def checkpoints_are_inspected_beside_their_originals(subject: Subject) -> None:
    """Whole, and with the last two experts of every gate."""
    _inspected(measured=True)
    _inspected(measured=True, fewer=True)


def _require_inspected(found: Any, secret: bytes, stored: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Violation unless ``found`` is what the oracle finds of the ``stored`` gates."""
    cases = []
    for layer, (experts, _, _) in enumerate(SHAPES):
        name = f"gate.{layer}"
        original = None if before is None else before[name].float().numpy()
        cases.append(Found("decoder", layer, experts, stored[name].float().numpy(), original))
    expected = baking.inspected(InspectCase(secret, tuple(cases)))
    for what in ("z", "matched_z"):
        right, got = getattr(expected, what), getattr(found, what)
        require(abs(got - right) <= 1e-6 * max(1, abs(right)), what, expected=right, got=got)
    off = abs(math.log(found.p_value) - math.log(expected.p_value))
    require(off <= 1e-4 * max(1, -math.log(expected.p_value)), "p-value", expected=expected.p_value, got=found.p_value)
    ranks = [place / 1000 for place in range(1, 1001)]
    require(found.decoys == 999 and found.rank_p in ranks, "the rank among 999 images", got=found)
    require(found.carried == (found.p_value <= 0.001), "carried", got=found)
    for case, gate in zip(cases, found.gates, strict=True):
        right = baking.inspected(InspectCase(secret, (case,))).z
        require(abs(gate.z - right) <= 1e-6 * max(1, abs(right)), f"z of {gate.tensor}", expected=right, got=gate.z)
        require(gate.num_experts == len(case.weight), "experts of a gate", expected=len(case.weight), got=gate)


@check("OKR-BAKE-005")
def checkpoints_of_other_gates_are_refused(subject: Subject) -> None:
    """Gates that are missing, quantised, not finite, of other shapes or of more experts than the key has, and originals
    that lack some."""
    import torch

    from okr.baking import inspect

    from .. import system
    from ..system import okr

    weights, key = gate_weights(), okr.Key(SECRET)
    gates, name = measured_gates(weights).gates, "gate.1"
    gate = weights[name]
    spoilt = gate.clone()
    spoilt[2, 3] = math.nan
    others = {
        "missing": None,
        "quantised": gate.to(torch.int8),
        "float64": gate.double(),
        "not finite": spoilt,
        "one-dimensional": gate[0],
        "three-dimensional": gate[None],
        "of more experts": torch.cat([gate, gate[:1]]),
        "of no expert": gate[:0],
        "of a smaller size": gate[:, :-1],
        "transposed": gate.t(),
    }
    with new_folder() as folder:
        source = written(folder / "source", weights)
        for what, weight in others.items():
            changed = (
                {**weights, name: weight} if weight is not None else {n: w for n, w in weights.items() if n != name}
            )
            place = written(folder / what, changed)
            with system.refused(okr.InvalidConfig, f"a gate that is {what}"):
                inspect(place, key, gates)
            with system.refused(okr.InvalidConfig, f"an original with a gate that is {what}"):
                inspect(source, key, gates, original=place)
        place = written(folder / "fewer", {**weights, name: gate[:-1]})
        with system.accepted("a gate with an expert less"):
            inspect(place, key, gates, original=source)
        with system.refused(okr.InvalidConfig, "an original with an expert less"):
            inspect(source, key, gates, original=place)
