"""Every way a load can fail says in one line what was looked for, where, and what to do."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import edit_config
from safetensors.torch import load_file, save_file

import okr
from okr.loaders import loading, memory_guard, out_of_memory, sources

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def message(source: object, **options: object) -> str:
    """The one line that loading ``source`` fails with."""
    with pytest.raises(okr.ModelLoadError) as caught:
        okr.load(source, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 700
    return text


def truncate(name: str, share: float) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def drop_weight(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        for shard in SHARDS:
            weights = load_file(folder / shard)
            if weights.pop(name, None) is not None:
                save_file(weights, folder / shard, metadata={"format": "pt"})
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        del index["weight_map"][name]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def rewrite(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def pickled(folder: Path) -> None:
    remove(*SHARDS, "model.safetensors.index.json")(folder)
    torch.save({}, folder / "pytorch_model.bin")


INDEX = "model.safetensors.index.json"
DAMAGE = {
    "shard missing": (remove(SHARDS[1]), rf"weights of .* {SHARDS[1]} is missing \({INDEX} names it\)"),
    "shard truncated": (truncate(SHARDS[0], 0.5), rf"{SHARDS[0]} is damaged or incomplete"),
    "shard empty": (truncate(SHARDS[1], 0), rf"{SHARDS[1]} is damaged or incomplete"),
    "header truncated": (truncate(SHARDS[1], 0.001), rf"{SHARDS[1]} is damaged or incomplete"),
    "index corrupted": (rewrite(INDEX, '{"weight_map": {'), rf"{INDEX} is damaged"),
    "index empty": (rewrite(INDEX, ""), rf"{INDEX} is damaged"),
    "git lfs pointer": (
        rewrite(SHARDS[0], "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
        rf"{SHARDS[0]} is a Git LFS pointer, not the weights: run 'git lfs pull'",
    ),
    "no weights": (remove(*SHARDS, INDEX), rf"there is no model.safetensors and no {INDEX}"),
    "pickled weights": (pickled, r"pickled \(pytorch_model.bin\) and only safetensors is loaded; convert it once"),
    "dense weight missing": (
        drop_weight("model.layers.0.mlp.up_proj.weight"),
        r"1 weights are missing, such as model.layers.0.mlp.up_proj.weight: .*download it again",
    ),
    "router missing": (
        drop_weight("model.layers.1.mlp.gate.weight"),
        r"missing, such as model.layers.1.mlp.gate.weight",
    ),
    "one expert missing": (
        drop_weight("model.layers.1.mlp.experts.3.up_proj.weight"),
        r"a matrix of some expert is missing",
    ),
    "more layers than weights": (lambda f: edit_config(f, num_hidden_layers=3), r"\d+ weights are missing"),
    "other sizes": (
        lambda f: edit_config(f, intermediate_size=50),
        r"3 weights have the wrong shape, such as .*mlp.down_proj.weight \(\[32, 48\], .* asks for \[32, 50\]\)",
    ),
    "more experts than weights": (
        lambda f: edit_config(f, n_routed_experts=9),
        r"mlp.experts.down_proj \(\[8, 32, 12\], .* \[9, 32, 12\]\)",
    ),
    "config corrupted": (
        rewrite("config.json", '{"model_type": '),
        r"config.json.*not a valid JSON.*download it again",
    ),
    "config is a list": (rewrite("config.json", "[]"), r"configuration \(config.json\) of .* cannot be loaded"),
    "config of wrong type": (lambda f: edit_config(f, hidden_size="wide"), r"'hidden_size' expected int, got str"),
    "heads do not divide": (
        lambda f: edit_config(f, num_attention_heads=5),
        r"configuration \(config.json\) .*multiple",
    ),
    "top-k above experts": (lambda f: edit_config(f, num_experts_per_tok=9), r"num_experts_per_tok \(9\) .*\(8\)"),
    "no model type": (lambda f: edit_config(f, model_type=..., auto_map=...), r"model_type"),
    "unknown model type": (
        lambda f: edit_config(f, model_type="nonesuch", auto_map=...),
        r"model type that transformers [\d.]+ does not know: upgrade transformers",
    ),
    "remote code needed": (
        lambda f: edit_config(f, model_type="nonesuch"),
        r"needs Python code from its own checkpoint: .*trust_remote_code=True",
    ),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        r"has no tokenizer \(looked for tokenizer.json",
    ),
    "no vocabulary": (remove("tokenizer.json"), r"has no tokenizer \(looked for tokenizer.json"),
    "tokenizer corrupted": (rewrite("tokenizer.json", '{"version'), r"the tokenizer of .* cannot be loaded"),
    "tokenizer empty": (rewrite("tokenizer.json", "{}"), r"the tokenizer of .* cannot be loaded"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_an_error_in_one_line(damaged, case: str) -> None:
    damage, words = DAMAGE[case]
    folder = damaged(damage)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    text = message(folder)
    assert str(folder) in text
    assert re.search(words, text), text
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_top_k_above_experts_is_refused_in_any_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5})
    )
    assert "asks for the top 5 of 4 experts" in message(tmp_path)


def test_a_switch_checkpoint_without_tokenizer_is_refused(switch_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"  # transformers alone would make up a vocabulary of 104 entries
    shutil.copytree(switch_checkpoint, folder)
    remove("tokenizer.json", "tokenizer_config.json")(folder)
    assert "has no tokenizer" in message(folder)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/nonexistent/model", "/nonexistent/model: there is no such folder, and it is no hub id"),
        ("./nonexistent", "there is no such folder"),
        (Path("nonexistent"), "nonexistent: there is no such folder"),
        ("two words", "it is no hub id (owner/name) nor one of deepseek-moe, deepseek-moe-random, switch, tiny"),
        ("a/b/c", "it is no hub id"),
        ("", "no model was named"),
        ("  ", "no model was named"),
    ],
)
def test_a_name_that_means_nothing(source: object, words: str) -> None:
    assert words in message(source)


def test_a_folder_or_file_that_is_no_model(tmp_path: Path) -> None:
    assert f"{tmp_path} is no model: it has no readable config.json" in message(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "is no model" in message(tmp_path / "file")


def test_the_environment_s_folder_must_hold_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(tmp_path))
    assert f"DEEPSEEK_MOE_LOCAL_PATH is set to {tmp_path}, but it has no readable config.json" in message(
        "deepseek-moe"
    )
    monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(tmp_path / "gone"))
    text = message("deepseek-moe")
    assert "but there is no such folder: point it to the folder with config.json" in text
    assert "unset it to look in /root/private_data/model/DeepSeek-MoE and on the hub" in text


def test_an_embedded_model_missing_from_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FOLDER", tmp_path)
    assert "missing from this installation" in message("tiny")
    assert "reinstall the package" in message("tiny-switch")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int8"}, "dtype must be auto, float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "dtype must be auto"),
        ({"dtype": None}, "dtype must be auto"),
        ({"quantization": "2bit"}, "quantization must be '8bit', '4bit' or None"),
        ({"max_memory": {0: "70GiB"}}, "max_memory needs a device_map"),
    ],
)
def test_settings_outside_their_range(options: dict[str, object], words: str) -> None:
    with pytest.raises(okr.InvalidSetting, match=re.escape(words)):
        okr.load("/nonexistent/model", **options)  # type: ignore[arg-type]


def test_quantisation_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okr.loaders.arguments.find_spec", lambda name: None)
    with pytest.raises(okr.InvalidSetting, match=r"needs bitsandbytes, .* pip install bitsandbytes$"):
        okr.load("tiny", quantization="4bit")


def test_a_card_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device_map in ("cuda", "cuda:0", {"": "cuda:0"}):
        with pytest.raises(okr.InvalidSetting, match="torch sees none"):
            okr.load("tiny", device_map=device_map)


CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.75 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.20 GiB is free."
    "\nProcess 7 has 77.9 GiB memory in use."
)


def test_out_of_memory_while_loading(deepseek_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError(CUDA_MESSAGE)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(okr.OutOfMemory) as caught:
        okr.load(deepseek_checkpoint)
    text = str(caught.value)
    assert f"out of memory while loading {deepseek_checkpoint}" in text
    assert "2.75 GiB more were asked for; the card has 79.15 GiB, 1.20 GiB free" in text
    for remedy in ("batch size", "maximum length", "8bit or 4bit", "max_memory such as {0: '70GiB'}"):
        assert remedy in text
    assert "\n" not in text
    assert caught.value.__cause__ is None


def test_out_of_memory_while_experts_are_merged(deepseek_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.stack  # transformers catches what conversion raises and tells the cause in its report only

    def full(tensors: list[torch.Tensor], *args: object, **kwargs: object) -> torch.Tensor:
        if len(tensors) == 8:
            raise torch.OutOfMemoryError(CUDA_MESSAGE)
        return stack(tensors, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "stack", full)
    with pytest.raises(okr.OutOfMemory, match=r"2\.75 GiB more were asked for"):
        okr.load(deepseek_checkpoint)


def test_the_memory_guard_names_the_figures_and_lets_other_errors_through() -> None:
    with (
        pytest.raises(okr.OutOfMemory, match=r"while generating \(batch size 8; max length 512\): lower the batch"),
        memory_guard("generating", batch_size=8, max_length=512),
    ):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: buy more")
    with pytest.raises(okr.OutOfMemory), memory_guard("x"):
        raise MemoryError
    with pytest.raises(okr.OutOfMemory, match=r"281474976710656 bytes more were asked for"), memory_guard("x"):
        torch.empty(2**48, dtype=torch.uint8)  # more than any host has, told in this platform's own words
    with pytest.raises(RuntimeError, match="shape"), memory_guard("x"):
        raise RuntimeError("shape mismatch")
    with memory_guard("x"):
        pass
    assert isinstance(out_of_memory(RuntimeError(), doing="x"), okr.OKRError)
