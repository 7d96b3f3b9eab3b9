"""A small untrained checkpoint of each structure, and a finished run of each.

What takes seconds to import is imported by the fixtures that need it: most tests, and pytest itself, do not.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from warm_python import server

if TYPE_CHECKING:
    from okr.experiment.results import Results


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


@pytest.fixture(scope="session")
def deepseek_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DeepSeek-MoE with two routed layers, float32."""
    from small_runs import save_tokenizer

    from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM

    folder = tmp_path_factory.mktemp("deepseek-checkpoint")
    config = DeepseekConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=512,
        moe_intermediate_size=16,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=1,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DeepseekForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def switch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Switch Transformer with one routed layer in each stack, float32."""
    from small_runs import save_tokenizer
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    folder = tmp_path_factory.mktemp("switch-checkpoint")
    config = SwitchTransformersConfig(
        vocab_size=384,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_heads=2,
        num_layers=2,
        num_sparse_encoder_layers=1,
        num_decoder_layers=2,
        num_sparse_decoder_layers=1,
        num_experts=8,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SwitchTransformersForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key file of PASSPHRASE."""
    from small_runs import PASSPHRASE

    from okr.routing import Key

    path = tmp_path_factory.mktemp("key") / "key.json"
    Key.from_passphrase(PASSPHRASE).save(path)
    return path


@pytest.fixture(scope="session")
def experiment(key_file: Path) -> Callable[..., "Results"]:
    """Runs a small experiment: ``experiment(model folder, output folder, **settings)``."""
    from small_runs import SMALL

    from okr.experiment.config import resolve
    from okr.experiment.runner import run

    def start(
        model: Path, output: Path, *, resume: bool = False, preset: str = "tiny", **settings: object
    ) -> "Results":
        flags = SMALL | {"model": str(model), "output_dir": str(output), "key": str(key_file)} | settings
        return run(resolve(preset, flags, environment={}), resume=resume)

    return start


@pytest.fixture(scope="session")
def finished(
    deepseek_folder: Path, experiment: Callable[..., "Results"], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    experiment(deepseek_folder, folder)
    return folder


@pytest.fixture(scope="session")
def document(finished: Path) -> dict:
    """The finished run's results.json as plain JSON."""
    return json.loads((finished / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A folder with the programs ``python`` and ``okr``, whose processes have imported the package from their start."""
    with server() as folder:
        yield folder
