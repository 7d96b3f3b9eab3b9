"""The model that the steps share: made once in a process, when the first step asks for it."""

import time
from functools import cached_property
from pathlib import Path

import timing
import torch

import okr
from card.sizes import Sizes
from okr.engines.transformers import TransformersEngine
from okr.experiment.config import Resolved, resolve
from okr.jobs.loading import load_placed
from okr.loaders import Loaded
from okr.loaders.deepseek import DeepseekConfig
from okr.loaders.random_weights import SHAPE, random_model
from okr.loaders.sources import RANDOM


class Subject:
    """The 16B shape with random bfloat16 weights, placed as the guide's experiment places it; or its tiny likeness."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes, self.folder = sizes, folder
        self.device = "cpu" if sizes.tiny else "cuda"
        self.load_seconds = 0.0

    @cached_property
    def resolved(self) -> Resolved:
        """The guide's configuration, quick size."""
        asked = {"model": RANDOM, "output_dir": str(self.folder / "guide")} | self.sizes.experiment
        return resolve("deepseek-moe", asked, environment={})

    @cached_property
    def loaded(self) -> Loaded:
        """The model on its device, with a tokenizer."""
        began = time.perf_counter()
        if self.sizes.tiny:
            tokenizer = okr.load("tiny").tokenizer
            ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            found = Loaded(random_model(DeepseekConfig(**SHAPE | self.sizes.shape | ends)), tokenizer, RANDOM)
        else:
            found = load_placed(self.resolved.config)
        self.load_seconds = time.perf_counter() - began
        return found

    @cached_property
    def engine(self) -> TransformersEngine:
        """The prepared model."""
        return okr.prepare(self.loaded.model)

    def tokens(self, batch: int, count: int) -> torch.Tensor:
        """Random token ids [batch, count] on the model's device, the same at every call."""
        generator = torch.Generator().manual_seed(5)
        return torch.randint(10, 4096, (batch, count), generator=generator).to(self.device)

    def paired(self, tries: dict[str, timing.Try]) -> dict[str, list[float]]:
        """Rounds of ``tries`` within the seconds that a case may take."""
        return timing.paired(tries, self.sizes.rounds, least=self.sizes.least, budget=self.sizes.seconds)
