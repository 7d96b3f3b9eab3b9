"""``okr.load``: what a name means, which class and dtype come out, and that nothing touches the network."""

import copy
import inspect
import logging
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from checkpoints import edit_config
from transformers import (
    PreTrainedTokenizerFast,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

import okr
from okr.loaders import EMBEDDED, PRESETS, generation_defaults, loading, sources


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_signature_is_the_documented_one() -> None:
    parameters = inspect.signature(okr.load).parameters
    defaults = {n: p.default for n, p in parameters.items() if n != "source"}
    assert next(iter(parameters)) == "source"
    assert defaults == {
        "dtype": "auto",
        "device_map": None,
        "max_memory": None,
        "quantization": None,
        "trust_remote_code": False,
    }
    assert all(parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in defaults)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_load_as_float32_without_network_or_warnings(
    name: str, no_network: None, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = okr.load(name)
    assert loaded.source == name
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training
    assert isinstance(loaded.tokenizer, PreTrainedTokenizerFast)
    assert not caplog.records
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    text = 'He said: "the sea, the ship - 4 men."\n'
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded.tokenizer.decode(ids) == text
    assert len(loaded.tokenizer) == loaded.model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_generate_with_their_own_defaults(name: str) -> None:
    loaded = okr.load(name)
    inputs = loaded.tokenizer("It is a truth universally acknowledged", return_tensors="pt")
    wanted = generation_defaults(loaded.model)
    out = loaded.model.generate(**inputs, **wanted, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    new = out.shape[1] - (1 if loaded.model.config.is_encoder_decoder else inputs["input_ids"].shape[1])
    assert new == 8
    if loaded.model.config.is_encoder_decoder:
        assert int(out[0, 0]) == wanted["decoder_start_token_id"]


@pytest.mark.parametrize(("preset", "embedded"), [("tiny", "tiny-deepseek-moe"), ("tiny-switch", "tiny-switch")])
def test_presets_name_embedded_models(preset: str, embedded: str) -> None:
    place = sources.resolve(preset)
    assert (place.kind, place.name) == ("embedded", embedded)
    assert sources.holds_model(place.location)


def test_hub_presets_name_the_published_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSEEK_MOE_LOCAL_PATH", raising=False)
    monkeypatch.setattr(sources, "DEEPSEEK_FOLDER", "/nonexistent/DeepSeek-MoE")
    assert sources.resolve("switch").location == "google/switch-base-8"
    assert sources.resolve("deepseek-moe").location == "deepseek-ai/deepseek-moe-16b-base"
    assert {sources.resolve(p).kind for p in PRESETS} == {"embedded", "hub"}


def test_a_preset_s_name_given_as_a_path_is_the_folder(switch_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(switch_checkpoint, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert sources.resolve("./tiny").kind == "folder"
    assert sources.resolve(Path("tiny")).kind == "folder"
    assert sources.resolve("tiny").kind == "embedded"


@pytest.mark.parametrize("spelling", ["deepseek-ai/DeepSeek-MoE-16B", "deepseek-ai/deepseek-moe-16b"])
def test_the_guide_s_hub_name_is_an_alias_and_the_log_says_so(spelling: str, caplog) -> None:
    with caplog.at_level(logging.INFO, "okr"):
        place = sources.resolve(spelling)
    assert place.location == "deepseek-ai/deepseek-moe-16b-base"
    assert [r.getMessage() for r in caplog.records] == [
        f"{spelling} is taken as an alias of deepseek-ai/deepseek-moe-16b-base: its makers list no model of that name"
    ]


def test_the_search_for_deepseek_takes_the_environment_first_then_the_guide_s_folder(
    deepseek_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = tmp_path / "DeepSeek-MoE"
    shutil.copytree(deepseek_checkpoint, guide)
    monkeypatch.setattr(sources, "DEEPSEEK_FOLDER", str(guide))
    monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(deepseek_checkpoint))
    assert okr.load("deepseek-moe").source == str(deepseek_checkpoint)
    monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", "")
    assert okr.load("deepseek-moe").source == str(guide)
    monkeypatch.delenv("DEEPSEEK_MOE_LOCAL_PATH")
    assert okr.load("deepseek-moe").source == str(guide)
    (guide / "config.json").unlink()
    place = sources.resolve("deepseek-moe")
    assert (place.kind, place.location) == ("hub", "deepseek-ai/deepseek-moe-16b-base")


def test_the_class_comes_from_the_configuration(switch_checkpoint: Path, deepseek_checkpoint: Path, no_network) -> None:
    assert okr.load(switch_checkpoint).model.config.is_encoder_decoder
    assert type(okr.load(switch_checkpoint).model).__name__ == "SwitchTransformersForConditionalGeneration"
    assert type(okr.load(deepseek_checkpoint).model).__name__ == "DeepseekForCausalLM"


def test_an_encoder_decoder_with_a_deeper_decoder_generates(switch_checkpoint: Path, tmp_path: Path) -> None:
    config = SwitchTransformersConfig.from_pretrained(
        switch_checkpoint, num_decoder_layers=4, num_sparse_decoder_layers=2
    )
    shutil.copytree(switch_checkpoint, tmp_path / "deep")
    SwitchTransformersForConditionalGeneration(config).save_pretrained(tmp_path / "deep")
    for folder, cached in ((switch_checkpoint, True), (tmp_path / "deep", False)):
        model = okr.load(folder).model
        assert model.generation_config.use_cache is cached
        out = model.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert out.shape == (1, 5)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.bfloat16),  # what its config.json says, as torch_dtype
        ("float32", torch.float32),
        ("float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
    ],
)
def test_dtype(deepseek_checkpoint: Path, dtype: str | torch.dtype, expected: torch.dtype) -> None:
    assert okr.load(deepseek_checkpoint, dtype=dtype).model.dtype is expected


def test_embedded_models_take_a_dtype_too() -> None:
    assert okr.load("tiny", dtype="bfloat16").model.dtype is torch.bfloat16


def test_device_map_and_cap_reach_transformers(deepseek_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    real = loading.AutoModelForCausalLM.from_pretrained

    def spy(*args: object, **kwargs: object) -> object:
        seen.update(copy.deepcopy(kwargs))
        return real(*args, **kwargs)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", spy)
    cap = {"cpu": "2GiB"}
    loaded = okr.load(deepseek_checkpoint, device_map="auto", max_memory=cap)
    assert (seen["device_map"], seen["max_memory"]) == ("auto", cap)
    assert cap == {"cpu": "2GiB"}  # accelerate rewrites the one it is given
    assert seen["use_safetensors"] is True
    assert loaded.model.device.type in ("cpu", "cuda")


def test_transformers_logging_and_bars_are_as_before(deepseek_checkpoint: Path, damaged) -> None:
    from transformers.utils import logging as library

    library.set_verbosity_info()
    handlers = list(logging.getLogger("transformers").handlers)
    try:
        okr.load("tiny")
        with pytest.raises(okr.ModelLoadError):
            okr.load(damaged(lambda f: edit_config(f, hidden_size="wide")))
        assert library.get_verbosity() == logging.INFO
        assert logging.getLogger("transformers").handlers == handlers
        assert library.is_progress_bar_enabled()
    finally:
        library.set_verbosity_warning()


def test_repr_is_short(deepseek_checkpoint: Path) -> None:
    assert re.fullmatch(r"Loaded\(source='.*', revision=None\)", repr(okr.load(deepseek_checkpoint)))


def test_surplus_weights_are_reported(damaged, caplog: pytest.LogCaptureFixture) -> None:
    folder = damaged(lambda f: edit_config(f, num_hidden_layers=1))
    with caplog.at_level(logging.WARNING, "okr"):
        okr.load(folder)
    assert "have no place in the model" in caplog.text
