"""What okr bake, unbake and inspect refuse, each in one line that leaves nothing behind."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from okr.cli import execute
from tests.unit.commands.baked_checkpoints import GATES, copied, files, refused


def faulty(kind: str, source: Path, folder: Path) -> Path:
    """A copy of a checkpoint with one fault."""
    held = load_file(source / "model.safetensors")
    gate = held[GATES[0]]
    changes: dict[str, dict[str, torch.Tensor | None]] = {
        "tied": {GATES[1]: gate.clone()},
        "named otherwise": {GATES[0]: None, "model.layers.1.mlp.router.weight": gate},
        "quantised": {GATES[0]: (gate * 10).to(torch.int8)},
        "not finite": {GATES[0]: torch.full_like(gate, float("nan"))},
    }
    model = copied(source, folder, **changes.get(kind, {}))
    if kind == "torn":
        os.truncate(model / "model.safetensors", 5000)
    if kind == "other weights alone":
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
    if kind == "an index without its shards":
        (model / "model.safetensors").unlink()
        index = {"weight_map": dict.fromkeys(held, "model-00001-of-00002.safetensors")}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("tied", "model.layers.1.mlp.gate: model.layers.1.mlp.gate.weight and another gate are the same"),
        ("named otherwise", "weights are missing, such as model.layers.1.mlp.gate.weight"),
        ("quantised", "quantised gates, and checkpoints that store gates otherwise, cannot be baked"),
        ("not finite", ""),
        ("torn", "is no whole safetensors file"),
        ("other weights alone", "pytorch_model.bin is not read: convert the checkpoint to safetensors first"),
        ("an index without its shards", "model-00001-of-00002.safetensors is missing, although"),
    ],
)
def test_a_faulty_checkpoint_is_refused_in_one_line(
    kind: str, reason: str, deepseek_folder: Path, norms: str, key_file: Path, two_passages: str, tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    model = faulty(kind, deepseek_folder, tmp_path / "model")
    words = ["bake", str(model), str(tmp_path / "new" / "out"), "--key", str(key_file), "--text", two_passages]
    line = refused([*words, "--norms", str(tmp_path / "norms.json")], capfd)
    assert reason in line
    refused([*words, "--norms", norms], capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_where_to_write_is_asked_before_anything_is_loaded(
    deepseek_folder: Path, baked: Path, norms: str, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from okr.jobs import loading

    monkeypatch.setattr(loading, "load_placed", lambda *given: pytest.fail("it was loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    before = files(deepseek_folder)
    for model, out, said in (
        (deepseek_folder, "there", "there exists: name a folder that does not"),
        (deepseek_folder, str(deepseek_folder), "exists: name a folder that does not"),
        (deepseek_folder, f"{deepseek_folder}/out", "which is copied: name a folder elsewhere"),
        (baked, "out", "is baked already: okr unbake it first"),
        (tmp_path / "there", "out", "it has no readable config.json"),
        (tmp_path / "none", "out", "no such folder"),
        ("deepseek-moe-random", "out", "has random weights and no files"),
    ):
        assert said in refused(["bake", str(model), out, "--key", str(key_file)], capfd)
    for out in ("a" * 256, "new/" + "a" * 256, "there/" + "a" * 5000):
        words = ["bake", str(deepseek_folder), out, "--key", str(key_file), "--norms", norms]
        assert "File name too long" in refused(words, capfd)
    for words in (["unbake", str(baked), "there"], ["unbake", str(deepseek_folder), "out"], ["unbake", "none", "out"]):
        refused([*words, "--key", str(key_file)], capfd)
    assert files(deepseek_folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert execute(["bake", str(deepseek_folder), "a" * 255, "--key", str(key_file), "--norms", norms]) == 0


@pytest.mark.parametrize("size", [0, 1000, 40_000])
def test_a_full_disk_leaves_nothing(
    size: int, deepseek_folder: Path, norms: str, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from okr.baking import checkpoint

    write = checkpoint.Checkpoint.write

    def without_room(*given: Any) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # a longer file fails with EFBIG
        try:
            write(*given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(checkpoint.Checkpoint, "write", without_room)
    words = ["bake", str(deepseek_folder), str(tmp_path / "out"), "--key", str(key_file), "--norms", norms]
    line = refused(words, capfd)
    assert line.startswith(f"okr: cannot write {tmp_path / 'out'}: ")
    assert "File too large" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--strength", "inf"], "a hard zone cannot be baked"),
        (["--strength", "nan"], "--strength must be a number above 0"),
        (["--strength", "0"], "--strength must be a number above 0"),
        (["--strength", "-1"], "--strength must be a number above 0"),
        (["--strength", "1e300"], "is no number of float32 above 0"),
        (["--strength", "1e-300"], "is no number of float32 above 0"),
        (["--strength", "1e-12"], "is lost in the rounding of torch.float32"),
        (["--setting", "silent"], "--setting must be quiet or loud"),
        (["--text", "none.txt"], "cannot read none.txt"),
        (["--device", "tpu"], "device"),
    ],
)
def test_bad_usage_is_one_line(
    more: list[str], said: str, deepseek_folder: Path, norms: str, key_file: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    words = ["bake", str(deepseek_folder), str(tmp_path / "out"), "--key", str(key_file), *more]
    assert said in refused(words if "--text" in more else [*words, "--norms", norms], capfd)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_norms_that_is_none(
    deepseek_folder: Path, switch_folder: Path, norms: str, key_file: Path, two_passages: str, tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    words = ["bake", str(deepseek_folder), str(tmp_path / "out"), "--key", str(key_file)]
    words += ["--text", two_passages, "--norms"]
    (tmp_path / "norms").write_text("{}")
    (tmp_path / "link").symlink_to("none")
    for name, reason in (
        (str(tmp_path / "norms"), "is no file of okr bake"),
        (str(tmp_path), "is no file of okr bake"),
        (str(tmp_path / "link"), "cannot read"),
        (str(tmp_path / "none" / "norms"), "cannot write"),
        (str(tmp_path / ("a" * 300)), "cannot write"),
    ):
        assert reason in refused([*words, name], capfd)
    assert "has no gate model.layers.1.mlp.gate.weight" in refused(
        ["bake", str(switch_folder), str(tmp_path / "out"), "--key", str(key_file), "--norms", norms], capfd
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [["--decoys", "0"], ["--alpha", "0"], ["--alpha", "2"], ["--header", "none.json"]])
def test_bad_usage_of_inspect(more: list[str], baked: Path, key_file: Path, capfd: pytest.CaptureFixture) -> None:
    refused(["inspect", str(baked), "--key", str(key_file), *more], capfd)


def test_a_baked_original_is_refused(baked: Path, key_file: Path, capfd: pytest.CaptureFixture) -> None:
    """Subtracted from itself, a baked checkpoint shows nothing."""
    line = refused(["inspect", str(baked), "--key", str(key_file), "--original", str(baked)], capfd)
    assert f"{baked} is baked already" in line


def test_a_model_of_another_family_has_no_gates_to_inspect(
    key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(["inspect", str(tmp_path), "--key", str(key_file)], capfd)
