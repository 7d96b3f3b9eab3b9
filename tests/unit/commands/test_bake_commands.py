"""okr bake, unbake and inspect: what they do."""

import base64
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import PASSPHRASE

import okr
from okr.baking import read_header
from okr.cli import execute
from okr.routing import Key
from tests.unit.commands.baked_checkpoints import GATES, STRENGTH, copied, files, refused, said


def test_a_checkpoint_is_baked_inspected_and_unbaked(
    deepseek_folder: Path, baked: Path, key_file: Path, foreign_key: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (deepseek_folder, baked))
    assert [name for name in sorted(before) if not torch.equal(before[name], after[name])] == GATES
    header = read_header(baked)
    assert header is not None
    assert header.model == deepseek_folder.name
    assert [gate.tensor for gate in header.gates] == GATES
    found = said(["inspect", str(baked), "--key", str(key_file)], capfd)
    assert found["carried"] is True
    assert found["p_value"] < 1e-9
    assert said(["inspect", str(baked), "--key", str(foreign_key)], capfd, 1)["carried"] is False
    assert said(["inspect", f"{deepseek_folder}/", "--key", str(key_file)], capfd, 1)["carried"] is False
    assert execute(["unbake", str(baked), str(tmp_path / "again"), "--key", str(key_file)]) == 0
    assert str(tmp_path / "again") in capfd.readouterr().out
    assert files(tmp_path / "again") == files(deepseek_folder)


def test_a_header_beside_a_checkpoint_that_lost_its_own_and_some_experts(
    baked: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    shutil.copytree(baked, tmp_path / "model")
    shutil.move(tmp_path / "model" / "okr.json", tmp_path / "okr.json")
    assert said(["inspect", str(tmp_path / "model"), "--key", str(key_file)], capfd)["p_value"] < 1e-9
    held = load_file(tmp_path / "model" / "model.safetensors")
    save_file(held | {name: held[name][2:].contiguous() for name in GATES}, tmp_path / "model" / "model.safetensors")
    words = ["inspect", str(tmp_path / "model"), "--key", str(key_file)]
    assert "has no float tensor for the gate" in refused(words, capfd)
    assert said([*words, "--header", str(tmp_path / "okr.json")], capfd)["p_value"] < 1e-6
    assert execute([*words, "--header", str(tmp_path / "okr.json"), "--by-gate"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == GATES
    assert "is no file of okr bake" in refused([*words, "--header", str(key_file)], capfd)


def test_measuring_once_is_enough(
    deepseek_folder: Path, baked: Path, norms: str, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file of norms no model is loaded, and the bytes are the same."""
    from okr.jobs import loading

    def never(*given: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(loading, "load_placed", never)
    words = ["bake", str(deepseek_folder), str(tmp_path / "b"), "--key", str(key_file), "--norms", norms]
    assert execute([*words, "--strength", str(STRENGTH)]) == 0
    assert files(tmp_path / "b") == files(baked)


def test_the_norms_are_the_means_of_the_norms_of_the_routers_inputs(
    deepseek_folder: Path, norms: str, two_passages: str
) -> None:
    loaded, found = okr.load(deepseek_folder), []
    hooks = [
        loaded.model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda module, given, seen=found: seen.append(given[0].flatten(0, -2).norm(dim=-1))
        )
        for name in GATES
    ]
    with torch.no_grad():
        for line in Path(two_passages).read_text().splitlines():
            ids = loaded.tokenizer(line, return_tensors="pt", truncation=True, max_length=256)["input_ids"]
            loaded.model(input_ids=ids[:, :-1])
    [hook.remove() for hook in hooks]
    expected = [float(torch.cat(found[place::2]).mean()) for place in range(2)]
    assert [gate["norm"] for gate in json.loads(Path(norms).read_bytes())["gates"]] == pytest.approx(expected, rel=1e-5)


def test_the_secret_is_in_no_file_no_message_and_no_log(
    deepseek_folder: Path, norms: str, baked: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    secret = bytes(range(200, 232))
    Key(secret).save(tmp_path / "key.json")
    caplog.set_level(logging.DEBUG)
    key, out = ["--key", str(tmp_path / "key.json")], str(tmp_path / "out")
    for words, code in (
        (["bake", str(deepseek_folder), out, "--norms", norms, "--setting", "loud"], 0),
        (["bake", str(deepseek_folder), out, "--norms", norms], 2),
        (["inspect", out, "--by-gate"], 0),
        (["unbake", out, str(tmp_path / "again")], 0),
        (["unbake", str(baked), str(tmp_path / "none")], 2),
    ):
        assert execute([*words, *key]) == code
    printed = capfd.readouterr()
    forms = [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    forms += [form[: len(form) // 2] for form in forms]
    written = [*files(Path(out)).values(), *files(tmp_path / "again").values(), Path(norms).read_bytes()]
    shown = f"{printed.out}{printed.err}{caplog.text}"
    assert PASSPHRASE not in shown
    assert not [form for content in (*written, shown.encode()) for form in forms if form in content]


def test_float32_gates_in_a_bfloat16_checkpoint_stay_float32(
    deepseek_folder: Path, key_file: Path, two_passages: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    held = load_file(deepseek_folder / "model.safetensors")
    lower = {name: value if name in GATES else value.bfloat16() for name, value in held.items()}
    model = copied(deepseek_folder, tmp_path / "model", **lower)
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    out = tmp_path / "out"
    assert (
        execute(["bake", str(model), str(out), "--key", str(key_file), "--text", two_passages, "--setting", "loud"])
        == 0
    )
    capfd.readouterr()
    after = load_file(out / "model.safetensors")
    assert {name: value.dtype for name, value in after.items()} == {name: v.dtype for name, v in lower.items()}
    assert not [name for name in after if name not in GATES and not torch.equal(after[name], lower[name])]
    assert said(["inspect", str(out), "--key", str(key_file)], capfd)["carried"] is True


def test_an_encoder_decoder_is_baked(
    switch_folder: Path, key_file: Path, two_passages: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "out")
    words = ["bake", str(switch_folder), out, "--key", str(key_file), "--text", two_passages, "--strength", "2"]
    assert said(words, capfd)["gates"] == 2
    assert said(["inspect", out, "--key", str(key_file)], capfd)["carried"] is True
    assert execute(["unbake", out, str(tmp_path / "again"), "--key", str(key_file)]) == 0
    assert files(tmp_path / "again") == files(switch_folder)


def test_an_embedded_model_is_baked(
    key_file: Path, two_passages: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert execute(["bake", "tiny", str(tmp_path / "out"), "--key", str(key_file), "--text", two_passages]) == 0
    capfd.readouterr()
    found = said(["inspect", str(tmp_path / "out"), "--key", str(key_file)], capfd)
    assert found["p_value"] < 1e-30
    assert read_header(tmp_path / "out").model == "tiny-deepseek-moe"
    assert execute(["unbake", str(tmp_path / "out"), str(tmp_path / "again"), "--key", str(key_file)]) == 0
    [exported] = (tmp_path / "cache" / "okr" / "exported").iterdir()
    assert files(tmp_path / "again") == files(exported)
