"""An untrained checkpoint, a finished run on it, and a bench of suites."""

from pathlib import Path

import pytest
import torch
from small_models import random_deepseek
from small_runs import save_tokenizer

import okr
from okr.experiment.config import Resolved, resolve
from okr.experiment.runner import run
from okr.loaders import Loaded
from okr.suites.options import SuiteOptions
from okr.suites.samples import Bench

# a seed whose keys cost something on this model
RUN = {"samples": 2, "max_length": 8, "batch_size": 2, "decoys": 99, "alpha": 0.01, "quality_passages": 2, "seed": 14,
       "setting": "loud"}  # fmt: skip
SMALL = SuiteOptions(
    quick=True, samples=4, tokens=12, decoys=19, attacked=2, attacked_decoys=19, batch=2, passages=2, cost_keys=1,
    prompt_words=4,
)  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DeepSeek-MoE with a tokenizer of 384 entries."""
    folder = tmp_path_factory.mktemp("evidence-checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = random_deepseek(vocab_size=384, max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
                                eos_token_id=2)  # fmt: skip
    model.save_pretrained(folder)
    save_tokenizer(folder, 4)
    return folder


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Loaded:
    return okr.load(str(checkpoint))


@pytest.fixture(scope="session")
def bench(loaded: Loaded, checkpoint: Path) -> Bench:
    config = resolve("tiny", RUN | {"model": str(checkpoint), "output_dir": "unused"}, environment={}).config
    return Bench(loaded, config, SMALL, ("it was the best", "call me", "in the beginning was", "we the people"))


@pytest.fixture(scope="session")
def finished_run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    """A finished run without suites; tests copy its folder."""
    folder = tmp_path_factory.mktemp("evidence-runs") / "finished"
    flags = RUN | {"model": str(checkpoint), "output_dir": str(folder), "threads": 1}
    resolved = resolve("tiny", flags, environment={})
    run(resolved, resume=False)
    return resolved


@pytest.fixture
def small() -> SuiteOptions:
    """A suite of a few seconds."""
    return SMALL
