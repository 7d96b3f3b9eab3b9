"""A baked checkpoint has the layout of its original, appears whole or not at all, and gives the original back."""

import base64
import json
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from okr import Key
from okr.baking import HEADER_FILE, ORIGINALS_FILE, Checkpoint, bake, read_header, unbake
from okr.baking.checkpoint import INDEX
from okr.errors import InvalidKey, InvalidSetting
from tests.unit.baking.sharded import BESIDE, KEY, OTHER, baking, files, gate_name, known, refused, write

OURS = {HEADER_FILE, ORIGINALS_FILE}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


@pytest.fixture
def baked(model: Path, tmp_path: Path) -> Path:
    bake(model, tmp_path / "baked", KEY, known(model), 0.5)
    return tmp_path / "baked"


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_gates_change_and_nothing_else(shards: int, tmp_path: Path) -> None:
    model = write(tmp_path / "model", shards=shards)
    counted: list[int] = []
    header = bake(model, tmp_path / "baked", KEY, known(model), 0.5, advance=counted.append)
    before, after = files(model), files(tmp_path / "baked")
    assert after.keys() == before.keys() | OURS
    assert {name for name in before if before[name] != after[name]} == set(Checkpoint(model).files)
    assert set(BESIDE) < before.keys()
    assert sum(counted) == Checkpoint(model).size()
    one, other = Checkpoint(model), Checkpoint(tmp_path / "baked")
    assert one.tensors == other.tensors
    changed = {name for name in one.tensors if one.raw(name) != other.raw(name)}
    assert changed == {gate.tensor for gate in header.gates} == {gate_name(layer) for layer in range(3)}
    for file in one.files:
        with safe_open(tmp_path / "baked" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert read_header(tmp_path / "baked") == header
    unbake(tmp_path / "baked", tmp_path / "again", KEY)
    assert files(tmp_path / "again") == before


def test_the_same_arguments_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        baking(model, tmp_path / name)
    baking(model, tmp_path / "third", OTHER)
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert not {name for name in OURS if files(tmp_path / "one")[name] == files(tmp_path / "third")[name]}


def test_the_secret_is_in_no_file_and_no_message(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = bytes(range(100, 132))
    caplog.set_level(logging.DEBUG)
    bake(model, tmp_path / "baked", Key(secret), known(model), 0.5)
    with pytest.raises(InvalidKey) as caught:
        unbake(tmp_path / "baked", tmp_path / "again", OTHER)
    forms = [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    forms += [form[: len(form) // 2] for form in forms] + [secret.hex().upper().encode()]
    said = f"{caplog.text}{caught.value}".encode()
    for content in (*files(tmp_path / "baked").values(), said):
        assert not [form for form in forms if form in content]


def test_the_originals_are_sealed_whole(model: Path, baked: Path) -> None:
    """No half of a gate can be read from them without the key."""
    checkpoint, held = Checkpoint(model), (baked / ORIGINALS_FILE).read_bytes()
    assert len(held) == sum(len(checkpoint.raw(gate_name(layer))) for layer in range(3))
    for layer in range(3):
        content = checkpoint.raw(gate_name(layer))
        assert not [n for n in range(0, len(content) - 8, 8) if content[n : n + 8] in held]


def test_files_have_the_mode_that_the_umask_leaves(model: Path, tmp_path: Path) -> None:
    (model / "config.json").chmod(0o400)
    before = os.umask(0o027)
    try:
        baking(model, tmp_path / "baked")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "baked").rglob("*") if path.is_file()} == {0o640}
    assert stat.S_IMODE((tmp_path / "baked").stat().st_mode) == 0o750


def test_weights_in_other_files_are_left_out_and_named(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They hold the gates without the key."""
    left = ["consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "original/a.00.pth",
            "model-Q4.GGUF", ".git/lfs/objects/0123"]  # fmt: skip
    for name in left:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("weights")
    (model / "loop").symlink_to(model)
    baking(model, tmp_path / "baked")
    assert files(tmp_path / "baked").keys() == files(model).keys() - set(left) | OURS
    [line] = caplog.messages
    assert "not copied, as they may hold other gates: .git, consolidated.safetensors, loop and 4 more" in line


def test_links_as_in_a_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in model.rglob("*") if path.is_file())):
        place = snapshot / path.relative_to(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(number))
        place.symlink_to(blobs / str(number))
    baking(snapshot, tmp_path / "baked")
    baking(model, tmp_path / "plain")
    assert files(tmp_path / "baked") == files(tmp_path / "plain")
    assert not [path for path in (tmp_path / "baked").rglob("*") if path.is_symlink()]


def test_a_key_is_baked_in_once(model: Path, baked: Path, tmp_path: Path) -> None:
    for key in (KEY, OTHER):
        refused("is baked already: okr unbake it first", baked, tmp_path / "twice", key, known(baked), 0.5)
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), float("nan")])
def test_a_strength_that_is_none(strength: float, model: Path, tmp_path: Path) -> None:
    refused(
        "strength must be a number above 0", model, tmp_path / "o", KEY, known(model), strength, kind=InvalidSetting
    )


def test_norms_of_another_model(model: Path, tmp_path: Path) -> None:
    gates = known(model)
    other = write(tmp_path / "other", (torch.float32, torch.float32, torch.float16))
    refused(
        "model.layers.0.mlp.gate.weight is not the weight that was measured", other, tmp_path / "o", KEY, gates, 1.0
    )
    fewer = write(tmp_path / "fewer", (torch.bfloat16,))
    refused("has no gate model.layers.1.mlp.gate.weight of 8 experts", fewer, tmp_path / "o", KEY, gates, 1.0)
    assert not (tmp_path / "o").exists()


def damage_gate(baked: Path) -> str:
    checkpoint = Checkpoint(baked)
    stored = checkpoint.tensors[gate_name(1)]
    with (baked / stored.file).open("r+b") as file:
        file.seek(stored.begin)
        file.write(b"\1")
    return "model.layers.1.mlp.gate.weight has changed since it was baked"


def change(name: str, edit: Any) -> Any:
    def apply(baked: Path) -> None:
        (baked / name).write_bytes(edit((baked / name).read_bytes()))

    return apply


def altered(**fields: Any) -> Any:
    return change(HEADER_FILE, lambda content: json.dumps(json.loads(content) | fields).encode())


def test_changed_gates_are_not_restored(baked: Path, tmp_path: Path) -> None:
    refused(damage_gate(baked), baked, tmp_path / "again", KEY)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change(ORIGINALS_FILE, lambda content: content[:-1]), "okr.originals is damaged"),
        (change(ORIGINALS_FILE, lambda content: content + b"\0"), "okr.originals is damaged"),
        (change(ORIGINALS_FILE, lambda content: b""), "okr.originals is damaged"),
        (change(ORIGINALS_FILE, lambda content: b"\1" + content[1:]), "okr.originals is damaged"),
        (altered(tag="0" * 64), "okr.originals is damaged"),
        (lambda baked: (baked / ORIGINALS_FILE).unlink(), "which holds the original gates: No such file"),
        (lambda baked: (baked / HEADER_FILE).unlink(), "is not baked: it has no okr.json"),
        (lambda baked: (baked / INDEX).unlink(), "has neither model.safetensors nor"),
        (lambda baked: (baked / "model-00002-of-00003.safetensors").unlink(), "is missing, although"),
    ],
)
def test_a_damaged_baked_checkpoint_says_so(damage: Any, said: str, baked: Path, tmp_path: Path) -> None:
    damage(baked)
    refused(said, baked, tmp_path / "again", KEY)
    assert not (tmp_path / "again").exists()


def test_another_key_restores_nothing(baked: Path, tmp_path: Path) -> None:
    refused(f"is under the key {KEY.id}, not under {OTHER.id}", baked, tmp_path / "again", OTHER, kind=InvalidKey)
    altered(key_id=OTHER.id)(baked)
    refused("okr.originals is damaged", baked, tmp_path / "again", OTHER)


def test_the_strength_in_the_header_does_not_matter_to_the_original(model: Path, baked: Path, tmp_path: Path) -> None:
    altered(strength=7.0)(baked)
    unbake(baked, tmp_path / "again", KEY)
    assert files(tmp_path / "again") == files(model)
