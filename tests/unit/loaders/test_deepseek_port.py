"""The DeepSeek-MoE port against an independent implementation of the published architecture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import edit_config, save_tokenizer
from original_deepseek import OriginalDeepseek, Shape, hub_config, save_sharded
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig

import okr
from okr.loaders.deepseek import DeepseekConfig, register

SHAPES = {
    "published": Shape(),
    "dense-first-two": Shape(first_k_dense_replace=2, num_hidden_layers=4),
    "every-second-layer": Shape(moe_layer_freq=2, num_hidden_layers=5),
    "grouped-query-top-1": Shape(num_key_value_heads=2, num_experts_per_tok=1, n_shared_experts=1),
    "all-experts": Shape(num_experts_per_tok=8, first_k_dense_replace=0),
}


@pytest.fixture(params=SHAPES)
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[OriginalDeepseek, Path]:
    torch.manual_seed(1)
    model = OriginalDeepseek(SHAPES[request.param])
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_sharded(model, folder, shards=3)
    save_tokenizer(folder)
    return model, folder


def test_logits_agree_with_the_original_from_a_sharded_checkpoint(original: tuple[OriginalDeepseek, Path]) -> None:
    model, folder = original
    token_ids = torch.randint(model.shape.vocab_size, (2, 17), generator=torch.Generator().manual_seed(2))
    loaded = okr.load(folder, dtype="float32")
    with torch.no_grad():
        logits = loaded.model(token_ids).logits
    expected = model(token_ids)
    assert expected.std() > 0.1  # the agreement below is of numbers that differ
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_saving_gives_the_published_layout_back_and_it_loads_bit_identically(
    original: tuple[OriginalDeepseek, Path], tmp_path: Path
) -> None:
    model, folder = original
    first = okr.load(folder, dtype="float32")
    saved = tmp_path / "saved"
    first.model.save_pretrained(saved)
    first.tokenizer.save_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    published = model.state_dict()
    assert weights.keys() == published.keys()
    assert all(torch.equal(weights[name], published[name]) for name in published)
    again = okr.load(saved, dtype="float32")
    token_ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        assert torch.equal(first.model(token_ids).logits, again.model(token_ids).logits)
    text = "the ship turned, 你好"
    assert first.tokenizer(text)["input_ids"] == again.tokenizer(text)["input_ids"]


def test_the_checkpoint_s_own_code_never_runs(deepseek_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(deepseek_checkpoint, folder)
    for name in ("configuration_deepseek.py", "modeling_deepseek.py"):
        (folder / name).write_text("raise SystemExit('remote code ran')")
    loaded = okr.load(folder, trust_remote_code=True)
    assert type(loaded.model).__module__ == "okr.loaders.deepseek"


def test_the_tokenizer_splits_as_tokenizer_json_says_and_begins_with_bos(deepseek_checkpoint: Path) -> None:
    text = "Call me  what you will,\n said the 船长!"
    ids = okr.load(deepseek_checkpoint).tokenizer(text)["input_ids"]
    raw = Tokenizer.from_file(str(deepseek_checkpoint / "tokenizer.json")).encode(text).ids
    assert ids == [0, *raw]
    assert okr.load(deepseek_checkpoint).tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_published_sizes_are_read_from_the_published_configuration(tmp_path: Path) -> None:
    register()
    (tmp_path / "config.json").write_text(json.dumps(hub_config(Shape(num_hidden_layers=28, n_routed_experts=64))))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, DeepseekConfig)
    assert [config.is_routed(i) for i in range(28)] == [False] + [True] * 27
    assert (config.num_experts, config.num_experts_per_tok, config.n_shared_experts) == (64, 3, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scoring_func": "sigmoid"}, "scoring_func must be 'softmax'"),
        ({"norm_topk_prob": True}, "norm_topk_prob=True is not supported"),
        ({"num_experts_per_tok": 9}, r"num_experts_per_tok \(9\) must lie between 1 and n_routed_experts \(8\)"),
        ({"num_experts_per_tok": 0}, r"num_experts_per_tok \(0\) must lie between"),
    ],
)
def test_what_the_port_would_compute_wrongly_is_refused(damaged, change: dict[str, object], words: str) -> None:
    folder = damaged(lambda f: edit_config(f, **change))
    with pytest.raises(okr.ModelLoadError, match=words):
        okr.load(folder)
