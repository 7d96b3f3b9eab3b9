"""Chapter BAKE: whole checkpoints that are baked, restored and inspected."""

import hashlib
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import baking
from ..cases import BakeCase, Found, InspectCase, SealCase
from ..subject import Subject
from ..verdicts import require
from . import check

_SECRET = bytes(range(16))
_SHAPES = ((4, 24, "float32"), (5, 16, "bfloat16"), (3, 20, "float16"), (1, 12, "float32"))
"""Experts, hidden size and dtype of the gates of a checkpoint."""


@contextmanager
def _folders() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _weights() -> dict[str, Any]:
    """The gates of a checkpoint, and a tensor that is none."""
    import torch

    generator = torch.Generator().manual_seed(5)
    found = {"other": torch.arange(6.0)}
    for layer, (experts, size, dtype) in enumerate(_SHAPES):
        found[f"gate.{layer}"] = torch.randn(experts, size, generator=generator).to(getattr(torch, dtype))
    return found


def _written(folder: Path, weights: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def _gates(weights: dict[str, Any]) -> Any:
    """What was measured of the gates among ``weights``."""
    import torch

    from okr.baking import Gate, Gates

    measured = []
    for layer, (experts, size, _) in enumerate(_SHAPES):
        name = f"gate.{layer}"
        content = weights[name].contiguous().view(torch.uint8).numpy().tobytes()
        site: dict[str, Any] = {"stack": "decoder", "layer": layer, "num_experts": experts, "hidden_size": size}
        site |= {"tensor": name, "parameter": f"model.{name}", "norm": 2.0}
        measured.append(Gate(**site, sha256=hashlib.sha256(content).hexdigest()))
    return Gates(model="small", gates=tuple(measured))


@check("OKR-BAKE-003")
def a_baked_checkpoint_comes_back_bit_for_bit(subject: Subject) -> None:
    """Its gates, of three dtypes, have the key and nothing else changed; the file beside them is the sealed gates."""
    import torch
    from safetensors.torch import load_file

    from okr import Key
    from okr.baking import ORIGINALS_FILE, bake, read_header, unbake

    weights = _weights()
    with _folders() as folder:
        source, key = _written(folder / "source", weights), Key(_SECRET)
        bake(source, folder / "baked", key, _gates(weights), 1.5)
        unbake(folder / "baked", folder / "restored", key)
        found, restored = (load_file(folder / name / "model.safetensors") for name in ("baked", "restored"))
        header = read_header(folder / "baked")
        sealed = (folder / "baked" / ORIGINALS_FILE).read_bytes()
    content = b""
    for layer, (_, _, dtype) in enumerate(_SHAPES):
        name = f"gate.{layer}"
        case = BakeCase(_SECRET, "decoder", layer, weights[name].float().numpy(), dtype, 1.5, 2.0)
        require(
            np.array_equal(found[name].float().numpy(), baking.baked(case)), f"{name} with the key", got=found[name]
        )
        content += weights[name].contiguous().view(torch.uint8).numpy().tobytes()
    require(list(found) == list(restored) and torch.equal(found["other"], weights["other"]), "other tensors changed")
    same = all(torch.equal(restored[name], weight) for name, weight in weights.items())
    require(same, "what comes back is not the original")
    tag, expected = baking.sealed(SealCase(_SECRET, content))
    require(sealed == expected, "the sealed gates", expected=expected.hex()[:40], got=sealed.hex()[:40])
    require(header is not None and header.tag == tag.hex(), "the tag", expected=tag.hex(), got=header)


@check("OKR-BAKE-003")
def what_is_not_whole_is_not_restored(subject: Subject) -> None:
    """Under another key, twice baked, not baked, with a gate or the sealed gates changed, cut or gone. Gates that are
    not those that were measured are not baked."""
    from okr.baking import ORIGINALS_FILE, bake, unbake

    from .. import system
    from ..system import okr

    weights, key, other = _weights(), okr.Key(_SECRET), okr.Key(bytes(16))
    gates = _gates(weights)
    with _folders() as folder:
        source, target = _written(folder / "source", weights), folder / "target"
        bake(source, folder / "baked", key, gates, 1.5)
        sealed, stored = folder / "baked" / ORIGINALS_FILE, folder / "baked" / "model.safetensors"
        with system.refused(okr.InvalidKey, "another key"):
            unbake(folder / "baked", target, other)
        with system.refused(okr.InvalidConfig, "a checkpoint that is baked already"):
            bake(folder / "baked", target, other, _gates(_read(folder / "baked")), 1.5)
        with system.refused(okr.InvalidConfig, "a checkpoint that is not baked"):
            unbake(source, target, key)
        for file in (sealed, stored):
            whole = file.read_bytes()
            for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"\0", None):
                if content is None:
                    file.unlink()
                else:
                    file.write_bytes(content)
                with system.refused(okr.InvalidConfig, f"another {file.name}"):
                    unbake(folder / "baked", target, key)
            file.write_bytes(whole)
        names = [gate.tensor for gate in gates.gates]
        for number, changed in enumerate(_changed(weights)):
            place = _written(folder / str(number), changed)
            with system.refused(okr.InvalidConfig, f"one of {names} is not what was measured"):
                bake(place, target, key, gates, 1.5)
        require(not target.exists(), "a refusal left a checkpoint behind")
        with system.accepted("a checkpoint as it was baked"):
            unbake(folder / "baked", target, key)


def _changed(weights: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The weights without a gate, with other numbers in one, in another dtype, and with an expert less."""
    gate = weights["gate.0"]
    yield {name: weight for name, weight in weights.items() if name != "gate.0"}
    for other in (gate + 1, gate.double(), gate[:-1]):
        yield {**weights, "gate.0": other}


@check("OKR-BAKE-002")
def strengths_that_a_gate_cannot_hold_are_refused(subject: Subject) -> None:
    """Lost in the rounding of its dtype, or infinite with the key."""
    import torch

    from okr.baking import bake

    from .. import system
    from ..system import okr

    weights = _weights()
    for factor, strength in ((1.0, 1e-9), (1000.0, 2e5)):
        large = {name: weight * factor for name, weight in weights.items()}
        with _folders() as folder:
            source = _written(folder / "source", large)
            for value, accepted in ((strength, False), (1.0 if factor == 1.0 else 3e4, True)):
                given = okr.Key(_SECRET), _gates(large), value
                with system.accepted(f"{value}") if accepted else system.refused(okr.InvalidSetting, f"{value}"):
                    bake(source, folder / "baked", *given)
            require(bool(torch.isfinite(_read(folder / "baked")["gate.2"]).all()), "a gate that is not finite")


@check("OKR-BAKE-005")
def checkpoints_are_inspected_by_their_gates(subject: Subject) -> None:
    """With the original at hand or not, whole or with experts removed; of each gate by itself as of all."""
    from okr import Key
    from okr.baking import bake, inspect

    weights = _weights()
    gates, other = _gates(weights), Key(bytes(16))
    with _folders() as folder:
        source, key = _written(folder / "source", weights), Key(_SECRET)
        bake(source, folder / "baked", key, gates, 3.0)
        whole = _read(folder / "baked")
        fewer = {name: weight[-2:] for name, weight in whole.items()}
        pruned = _written(folder / "pruned", fewer)
        for place, stored in ((folder / "baked", whole), (pruned, fewer), (source, weights)):
            for original in (None, source)[: 1 if place == source else 2]:
                for one in (key, other):
                    found = inspect(place, one, gates.gates, original=original)
                    _require_inspected(found, one, stored, None if original is None else weights)
        found = inspect(folder / "baked", key, gates.gates, original=source)
        require(found.rank_p == 1 / 1000, "the rank of a key that is there", expected=1 / 1000, got=found.rank_p)
        again = inspect(folder / "baked", key, gates.gates, original=source, decoys=19, alpha=found.p_value)
        require((again.rank_p, again.p_value) == (1 / 20, found.p_value), "19 images", got=again)
        require(again.carried and again.as_dict()["carried"] is True, "a p-value of alpha is enough", got=again)
        nothing = _written(folder / "nothing", {name: weight * 0 for name, weight in weights.items()})
        found = inspect(nothing, key, gates.gates)
        got = (found.z, found.p_value, found.rank_p, found.carried)
        require(got == (0.0, 1.0, 1.0, False), "gates of zeros", expected=(0.0, 1.0, 1.0, False), got=got)
        require("show nothing" in str(found) and "carry" in str(again), "the verdict in words", got=(found, again))


def _read(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def _require_inspected(found: Any, key: Any, stored: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Violation unless ``found`` is what the oracle finds of the ``stored`` gates."""
    secret = _SECRET if key.id != type(key)(bytes(16)).id else bytes(16)
    cases = []
    for layer, (experts, _, _) in enumerate(_SHAPES):
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

    weights, key = _weights(), okr.Key(_SECRET)
    gates, name = _gates(weights).gates, "gate.1"
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
    with _folders() as folder:
        source = _written(folder / "source", weights)
        for what, weight in others.items():
            changed = (
                {**weights, name: weight} if weight is not None else {n: w for n, w in weights.items() if n != name}
            )
            place = _written(folder / what, changed)
            with system.refused(okr.InvalidConfig, f"a gate that is {what}"):
                inspect(place, key, gates)
            with system.refused(okr.InvalidConfig, f"an original with a gate that is {what}"):
                inspect(source, key, gates, original=place)
        place = _written(folder / "fewer", {**weights, name: gate[:-1]})
        with system.accepted("a gate with an expert less"):
            inspect(place, key, gates, original=source)
        with system.refused(okr.InvalidConfig, "an original with an expert less"):
            inspect(source, key, gates, original=place)
