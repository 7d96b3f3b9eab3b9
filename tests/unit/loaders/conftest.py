"""Small checkpoints to load: made once, copied for every test that damages one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import save_tokenizer
from original_deepseek import OriginalDeepseek, Shape, save_sharded
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration


@pytest.fixture(scope="session")
def deepseek_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DeepSeek-MoE in the published layout, in two shards."""
    folder = tmp_path_factory.mktemp("deepseek")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_sharded(OriginalDeepseek(Shape(num_hidden_layers=2)), folder, shards=2)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def switch_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Switch Transformer (encoder and decoder) in one file, its folder named after nothing."""
    folder = tmp_path_factory.mktemp("other")
    config = SwitchTransformersConfig(
        vocab_size=320,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_heads=2,
        num_layers=2,
        num_sparse_encoder_layers=1,
        num_decoder_layers=2,
        num_sparse_decoder_layers=1,
        num_experts=4,
        pad_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SwitchTransformersForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(tokenizer_config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


@pytest.fixture
def damaged(deepseek_checkpoint: Path, tmp_path: Path) -> Callable[[Callable[[Path], object]], Path]:
    """Copies the checkpoint, lets the given function damage the copy, and returns its folder."""

    def make(damage: Callable[[Path], object]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(deepseek_checkpoint, folder)
        damage(folder)
        return folder

    return make
