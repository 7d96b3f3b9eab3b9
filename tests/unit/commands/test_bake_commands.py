"""okr bake, unbake and inspect, and what the other commands make of a baked checkpoint."""

import base64
import json
import logging
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import PASSPHRASE

import okr
from okr.baking import read_header
from okr.cli import execute
from okr.engines.vllm import serving
from okr.routing import Key
from okr.traces import Trace

STRENGTH = 1.0
NUMBERS = ["--epsilon", "inf", "--zone", "boundary", "--strength", str(STRENGTH)]
PROMPT = 4
GATES = ["model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(words: list[str], capfd: pytest.CaptureFixture) -> str:
    """The one line of a command that must fail."""
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("okr: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    return str(lines[0])


def said(words: list[str], capfd: pytest.CaptureFixture, code: int = 0) -> dict[str, Any]:
    assert execute([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two passages: enough to measure on."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(f"word{n} and more" for n in range(first, first + 30)) for first in (0, 40)))
    return str(path)


@pytest.fixture(scope="module")
def norms(deepseek_folder: Path, key_file: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is measured of the small DeepSeek-MoE's gates."""
    folder = tmp_path_factory.mktemp("norms")
    words = ["bake", str(deepseek_folder), str(folder / "baked"), "--key", str(key_file), "--text", text]
    assert execute([*words, "--norms", str(folder / "norms.json")]) == 0
    return str(folder / "norms.json")


@pytest.fixture(scope="module")
def baked(deepseek_folder: Path, key_file: Path, norms: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baked") / "model"
    words = ["bake", str(deepseek_folder), str(folder), "--key", str(key_file), "--norms", norms]
    assert execute([*words, "--strength", str(STRENGTH)]) == 0
    return folder


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other.json"
    Key(bytes(range(32))).save(path)
    return path


@pytest.fixture(scope="module")
def made(baked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A trace of the baked model, which transformers ran, and the same as a server's response: files."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    options = {"max_new_tokens": 96, "do_sample": True, "pad_token_id": 0, "eos_token_id": None}
    with okr.record(okr.load(baked).model) as session:
        [trace] = session.generate(input_ids=torch.randint(3, 384, (1, PROMPT)), **options).traces
    trace.save(folder / "trace.safetensors")
    (folder / "response.json").write_text(json.dumps(response(trace)))
    return str(folder / "trace.safetensors"), str(folder / "response.json")


def response(trace: Trace) -> dict[str, Any]:
    rows = np.zeros((len(trace.experts), 3, 4), int)  # layer 0 is dense
    rows[:, 1:] = trace.experts
    ids = trace.token_ids.tolist()
    choice = {"prompt_token_ids": ids[:PROMPT], "token_ids": ids[PROMPT:], "routed_experts": rows.tolist()}
    return {"id": "cmpl-1", "choices": [choice]}


def test_a_checkpoint_is_baked_inspected_and_unbaked(
    deepseek_folder: Path, baked: Path, key_file: Path, other_key: Path, tmp_path: Path, capfd: pytest.CaptureFixture
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
    assert said(["inspect", str(baked), "--key", str(other_key)], capfd, 1)["carried"] is False
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
    deepseek_folder: Path, norms: str, text: str
) -> None:
    loaded, found = okr.load(deepseek_folder), []
    hooks = [
        loaded.model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda module, given, seen=found: seen.append(given[0].flatten(0, -2).norm(dim=-1))
        )
        for name in GATES
    ]
    with torch.no_grad():
        for line in Path(text).read_text().splitlines():
            ids = loaded.tokenizer(line, return_tensors="pt", truncation=True, max_length=256)["input_ids"]
            loaded.model(input_ids=ids[:, :-1])
    [hook.remove() for hook in hooks]
    expected = [float(torch.cat(found[place::2]).mean()) for place in range(2)]
    assert [gate["norm"] for gate in json.loads(Path(norms).read_bytes())["gates"]] == pytest.approx(expected, rel=1e-5)


def test_verification_with_the_baked_model_is_that_with_the_original(
    deepseek_folder: Path, baked: Path, made: tuple[str, str], key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    """But for rounding; and a response that names no setting has that of the baked model, as a trace does."""
    more = ["--key", str(key_file), "--decoys", "99", "--alpha", "0.01"]
    original = said(["verify", str(deepseek_folder), made[1], *more, *NUMBERS], capfd)["files"][0]
    for name in made:
        found = said(["verify", f"{baked}/", name, *more], capfd)["files"][0]
        assert found["watermarked"] is original["watermarked"] is True
        assert original["p_value"] < 1e-9
        assert np.log(found["p_value"]) == pytest.approx(np.log(original["p_value"]), rel=0.02)
        assert found["hit_rate"] == pytest.approx(original["hit_rate"], abs=0.01)
    assert "another model" in refused(["verify", str(deepseek_folder), made[0], *more, *NUMBERS], capfd)


def test_another_key_shows_nothing_and_attribution_names_the_one(
    baked: Path, made: tuple[str, str], key_file: Path, other_key: Path, capfd: pytest.CaptureFixture
) -> None:
    for name in made:
        found = said(["verify", str(baked), name, "--key", str(other_key)], capfd, 1)["files"][0]
        assert found["p_value"] == 1.0
        words = ["attribute", str(baked), name, "--key", str(other_key)]
        assert said([*words, "--key", str(key_file)], capfd)["key_id"] == Key.load(key_file).id
        assert said(words, capfd, 1)["key_id"] is None


def test_a_setting_that_is_given_takes_the_place_of_the_headers(
    baked: Path, made: tuple[str, str], key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    words = ["verify", str(baked), "--key", str(key_file)]
    for name in made:
        plain, same, other = (
            said([*words, name, *more], capfd)["files"][0]["p_value"] for more in ([], NUMBERS, ["--strength", "0.5"])
        )
        assert plain == same != other


def test_what_runs_no_code_of_ours_or_adds_a_key_refuses_a_baked_model(
    baked: Path, made: tuple[str, str], key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(serving, "is_installed", lambda: True)
    (tmp_path / "text.txt").write_text("some words of a text")
    key = ["--key", str(key_file)]
    for words in (["verify", str(baked), made[1]], ["attribute", str(baked), made[0]],
                  ["detect", str(baked), str(tmp_path / "text.txt"), "--setting", "loud"]):  # fmt: skip
        assert "is baked, and vLLM cannot take a key out" in refused([*words, *key, "--engine", "vllm"], capfd)
    for words in (["serve", str(baked), "--dry-run"], ["generate", str(baked), "words"]):
        assert "is baked: its weights carry a key already, so leave --key out" in refused([*words, *key], capfd)
    assert execute(["serve", str(baked), "--dry-run"]) == 0


def test_the_secret_is_in_no_file_no_message_and_no_log(
    deepseek_folder: Path, norms: str, baked: Path, made: tuple[str, str], other_key: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture,
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
        (["verify", str(baked), made[1]], 1),
    ):
        assert execute([*words, *key]) == code
    printed = capfd.readouterr()
    forms = [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    forms += [form[: len(form) // 2] for form in forms]
    written = [*files(Path(out)).values(), *files(tmp_path / "again").values(), Path(norms).read_bytes()]
    assert PASSPHRASE not in (text := f"{printed.out}{printed.err}{caplog.text}")
    assert not [form for content in (*written, text.encode()) for form in forms if form in content]


def copied(source: Path, target: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with other tensors; None removes one."""
    shutil.copytree(source, target)
    held = load_file(source / "model.safetensors") | changes
    kept = {name: value for name, value in held.items() if value is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_float32_gates_in_a_bfloat16_checkpoint_stay_float32(
    deepseek_folder: Path, key_file: Path, text: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    held = load_file(deepseek_folder / "model.safetensors")
    lower = {name: value if name in GATES else value.bfloat16() for name, value in held.items()}
    model = copied(deepseek_folder, tmp_path / "model", **lower)
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    out = tmp_path / "out"
    assert execute(["bake", str(model), str(out), "--key", str(key_file), "--text", text, "--setting", "loud"]) == 0
    capfd.readouterr()
    after = load_file(out / "model.safetensors")
    assert {name: value.dtype for name, value in after.items()} == {name: v.dtype for name, v in lower.items()}
    assert not [name for name in after if name not in GATES and not torch.equal(after[name], lower[name])]
    assert said(["inspect", str(out), "--key", str(key_file)], capfd)["carried"] is True


def test_an_encoder_decoder_is_baked(
    switch_folder: Path, key_file: Path, text: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "out")
    words = ["bake", str(switch_folder), out, "--key", str(key_file), "--text", text, "--strength", "2"]
    assert said(words, capfd)["gates"] == 2
    assert said(["inspect", out, "--key", str(key_file)], capfd)["carried"] is True
    assert execute(["unbake", out, str(tmp_path / "again"), "--key", str(key_file)]) == 0
    assert files(tmp_path / "again") == files(switch_folder)


def test_an_embedded_model_is_baked(
    key_file: Path, text: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert execute(["bake", "tiny", str(tmp_path / "out"), "--key", str(key_file), "--text", text]) == 0
    capfd.readouterr()
    found = said(["inspect", str(tmp_path / "out"), "--key", str(key_file)], capfd)
    assert found["p_value"] < 1e-30
    assert read_header(tmp_path / "out").model == "tiny-deepseek-moe"
    assert execute(["unbake", str(tmp_path / "out"), str(tmp_path / "again"), "--key", str(key_file)]) == 0
    [exported] = (tmp_path / "cache" / "okr" / "exported").iterdir()
    assert files(tmp_path / "again") == files(exported)


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
    kind: str, reason: str, deepseek_folder: Path, norms: str, key_file: Path, text: str, tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    model = faulty(kind, deepseek_folder, tmp_path / "model")
    words = ["bake", str(model), str(tmp_path / "new" / "out"), "--key", str(key_file), "--text", text]
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
    deepseek_folder: Path, switch_folder: Path, norms: str, key_file: Path, text: str, tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    words = ["bake", str(deepseek_folder), str(tmp_path / "out"), "--key", str(key_file), "--text", text, "--norms"]
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


def test_a_model_of_another_family_has_no_gates_to_inspect(
    key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(["inspect", str(tmp_path), "--key", str(key_file)], capfd)
