"""An untrained checkpoint, a finished run on it, and a bench of suites."""

from pathlib import Path

import pytest
import torch
from small_models import random_deepseek
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import okr
from okr.experiment.config import Resolved, resolve
from okr.experiment.runner import run
from okr.loaders import Loaded, passages
from okr.suites.options import SuiteOptions
from okr.suites.samples import Bench

# a seed whose keys cost something on this model
RUN = {"samples": 2, "max_length": 8, "batch_size": 2, "decoys": 99, "alpha": 0.01, "quality_passages": 2, "seed": 14}
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
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([passage.text for passage in passages(4)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
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
