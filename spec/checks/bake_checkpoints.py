"""Chapter BAKE: whole checkpoints that are baked, restored and inspected."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import baking
from ..cases import BakeCase, SealCase
from ..subject import Subject
from ..verdicts import require
from . import check

SECRET = bytes(range(16))
SHAPES = ((4, 24, "float32"), (5, 16, "bfloat16"), (3, 20, "float16"), (1, 12, "float32"))
"""Experts, hidden size and dtype of the gates of a checkpoint."""


@contextmanager
def new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def gate_weights() -> dict[str, Any]:
    """The gates of a checkpoint, and a tensor that is none."""
    import torch

    generator = torch.Generator().manual_seed(5)
    found = {"other": torch.arange(6.0)}
    for layer, (experts, size, dtype) in enumerate(SHAPES):
        found[f"gate.{layer}"] = torch.randn(experts, size, generator=generator).to(getattr(torch, dtype))
    return found


def written(folder: Path, weights: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def stored_in(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def measured_gates(weights: dict[str, Any]) -> Any:
    """What was measured of the gates among ``weights``."""
    import torch

    from okr.baking import Gate, Gates

    measured = []
    for layer, (experts, size, _) in enumerate(SHAPES):
        name = f"gate.{layer}"
        content = weights[name].contiguous().view(torch.uint8).numpy().tobytes()
        site: dict[str, Any] = {"stack": "decoder", "layer": layer, "num_experts": experts, "hidden_size": size}
        site |= {"tensor": name, "parameter": f"model.{name}", "norm": 2.0}
        measured.append(Gate(**site, sha256=hashlib.sha256(content).hexdigest()))
    return Gates(model="small", gates=tuple(measured))


def with_key(weights: dict[str, Any], strength: float) -> dict[str, Any]:
    """The same checkpoint with the key in its gates."""
    import torch

    found = dict(weights)
    for layer, (_, _, dtype) in enumerate(SHAPES):
        gate = weights[f"gate.{layer}"]
        case = BakeCase(SECRET, "decoder", layer, gate.float().numpy(), dtype, strength, 2.0)
        found[f"gate.{layer}"] = torch.from_numpy(baking.baked(case)).to(gate.dtype)
    return found


@check("OKR-BAKE-001")
def the_gates_of_a_checkpoint_get_the_key(subject: Subject) -> None:
    """Of three dtypes; nothing else changes."""
    import torch

    from okr import Key
    from okr.baking import bake

    weights = gate_weights()
    with new_folder() as folder:
        bake(written(folder / "source", weights), folder / "baked", Key(SECRET), measured_gates(weights), 1.5)
        found = stored_in(folder / "baked")
    for name, expected in with_key(weights, 1.5).items():
        require(torch.equal(found[name], expected), f"{name} of a baked checkpoint", expected=expected, got=found[name])


@check("OKR-BAKE-003")
def a_baked_checkpoint_comes_back_bit_for_bit(subject: Subject) -> None:
    """The file beside it is the sealed gates, one after the other."""
    import torch

    from okr import Key
    from okr.baking import ORIGINALS_FILE, bake, read_header, unbake

    weights = gate_weights()
    with new_folder() as folder:
        source, key = written(folder / "source", weights), Key(SECRET)
        bake(source, folder / "baked", key, measured_gates(weights), 1.5)
        unbake(folder / "baked", folder / "restored", key)
        restored, header = stored_in(folder / "restored"), read_header(folder / "baked")
        sealed = (folder / "baked" / ORIGINALS_FILE).read_bytes()
    same = all(torch.equal(restored[name], weight) for name, weight in weights.items())
    require(same and len(restored) == len(weights), "what comes back is not the original")
    gates = [weights[f"gate.{layer}"] for layer in range(len(SHAPES))]
    content = b"".join(gate.contiguous().view(torch.uint8).numpy().tobytes() for gate in gates)
    tag, expected = baking.sealed(SealCase(SECRET, content))
    require(sealed == expected, "the sealed gates", expected=expected.hex()[:40], got=sealed.hex()[:40])
    require(header is not None and header.tag == tag.hex(), "the tag", expected=tag.hex(), got=header)


@check("OKR-BAKE-003")
def what_is_not_whole_is_not_restored(subject: Subject) -> None:
    """Under another key, twice baked, not baked, with a gate or the sealed gates changed, cut or gone. Gates that are
    not those that were measured are not baked."""
    from okr.baking import ORIGINALS_FILE, bake, unbake

    from .. import system
    from ..system import okr

    weights, key, other = gate_weights(), okr.Key(SECRET), okr.Key(bytes(16))
    gates = measured_gates(weights)
    with new_folder() as folder:
        source, target = written(folder / "source", weights), folder / "target"
        bake(source, folder / "baked", key, gates, 1.5)
        sealed, stored = folder / "baked" / ORIGINALS_FILE, folder / "baked" / "model.safetensors"
        with system.refused(okr.InvalidKey, "another key"):
            unbake(folder / "baked", target, other)
        with system.refused(okr.InvalidConfig, "a checkpoint that is baked already"):
            bake(folder / "baked", target, other, measured_gates(stored_in(folder / "baked")), 1.5)
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
            place = written(folder / str(number), changed)
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

    weights = gate_weights()
    for factor, strength in ((1.0, 1e-9), (1000.0, 2e5)):
        large = {name: weight * factor for name, weight in weights.items()}
        with new_folder() as folder:
            source = written(folder / "source", large)
            for value, accepted in ((strength, False), (1.0 if factor == 1.0 else 3e4, True)):
                given = okr.Key(SECRET), measured_gates(large), value
                with system.accepted(f"{value}") if accepted else system.refused(okr.InvalidSetting, f"{value}"):
                    bake(source, folder / "baked", *given)
            require(bool(torch.isfinite(stored_in(folder / "baked")["gate.2"]).all()), "a gate that is not finite")
