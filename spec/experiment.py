"""A small experiment, which the chapter RESULT is about."""

import atexit
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from . import models, system


@contextmanager
def _without_bars() -> Iterator[None]:
    """None of transformers' progress bars: a checkpoint of a few kilobytes is written and read here."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@models.made
@_without_bars()
def _workshop() -> Path:
    """A folder that lives as long as the process: an untrained checkpoint with a byte-level tokenizer, and the key."""
    holder = tempfile.TemporaryDirectory(prefix="okr-spec-")
    atexit.register(holder.cleanup)
    folder = Path(holder.name)
    torch.manual_seed(4)
    shape = {**models.SIZE, "vocab_size": 259, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2}
    config = MixtralConfig(**shape, num_local_experts=8, num_experts_per_tok=2)
    model: Any = models.spread_routers(MixtralForCausalLM(config), 10)
    model.save_pretrained(folder / "model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({text: i for i, text in enumerate(["<pad>", "<bos>", "<eos>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder / "model")
    system.key().save(folder / "key.json")
    return folder


@models.made
@_without_bars()
def experiment() -> Path:
    """The output folder of a finished experiment of four samples."""
    from okr.experiment.config import resolve
    from okr.experiment.runner import run

    folder = _workshop()
    place = Path(tempfile.mkdtemp(dir=folder)) / "run"
    flags: dict[str, Any] = {
        "model": str(folder / "model"),
        "output_dir": str(place),
        "key": str(folder / "key.json"),
    }
    flags |= {"samples": 4, "max_length": 12, "batch_size": 2, "decoys": 99, "alpha": 0.01, "quality_passages": 2}
    run(resolve("tiny", flags, environment={}), resume=False)
    return place


@models.made
@_without_bars()
def experiment_model() -> Any:
    """The experiment's model, loaded anew."""
    return system.okr.load(str(_workshop() / "model")).model
