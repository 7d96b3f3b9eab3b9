"""A decode step that waits for nothing, and its capture in a CUDA graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, StaticCache

Made = TypeVar("Made")
Work = Callable[[], object]


class DecodeStep:
    """One token of each of ``batch`` texts through ``model`` with a cache of fixed size. Nothing in it depends on
    values that the host would have to wait for."""

    def __init__(self, model: nn.Module, device: str, length: int = 64, batch: int = 1) -> None:
        self.model = model
        self.cache = StaticCache(config=model.config, max_cache_len=length)
        numbers = torch.arange(7, 7 + 3 * batch, 3) % model.get_input_embeddings().num_embeddings
        self.token = numbers[:, None].to(device)
        self.place = torch.zeros(batch, 1, dtype=torch.long, device=device)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The logits [batch, vocabulary] of the tokens at ``self.place``."""
        answer: Tensor = self.model(
            input_ids=self.token, position_ids=self.place, past_key_values=self.cache, use_cache=True
        ).logits[:, -1]
        return answer


@contextmanager
def as_generate_decodes(model: PreTrainedModel) -> Iterator[None]:
    """The experts' operation that ``generate`` itself decodes with on a card. It waits for nothing; the one for prompts
    does on cards before compute capability 9.0."""
    before = model.get_experts_implementation()
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


class Repeated:
    """In place of a CUDA graph on the CPU: a replay does the work again."""

    def __init__(self, work: Work) -> None:
        self.replay = work


def captured(
    work: Callable[[], Made], device: str, restart: Work = lambda: None
) -> tuple[torch.cuda.CUDAGraph | Repeated, Made]:
    """A CUDA graph of ``work`` on ``device``, and what it returns, which every replay writes anew.

    ``work`` runs once on a stream of its own before, for what is made at a first call; ``restart`` undoes what it did.
    Raises RuntimeError where the work waits for the host and so cannot be captured.
    """
    if device == "cpu":
        return Repeated(work), work()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    restart()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()
    restart()
    return graph, made
