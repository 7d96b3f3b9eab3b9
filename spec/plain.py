"""Models of nobody's library: torch modules without a configuration, which run the parts of a tiny model."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Parts(nn.Module):
    """The parts of the model ``whole``, by the names that they have in it."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.model, self.lm_head = whole.model, whole.lm_head
        self.train(whole.training)

    def logits(self, ids: Tensor) -> Tensor:
        """The logits [batch, tokens, vocabulary] of ``ids``."""
        logits: Tensor = self.lm_head(self.model(input_ids=ids, use_cache=False).last_hidden_state)
        return logits


class Plain(Parts):
    """Takes token ids [batch, tokens], and gives logits."""

    def forward(self, ids: Tensor) -> Any:
        return self.logits(ids)


class Several(Parts):
    """Takes anything beside the ids, and gives the logits first of several."""

    def forward(self, ids: Tensor, **others: Any) -> Any:
        return self.logits(ids), ids


class Record(Parts):
    """Takes the ids by a name that is not the first, and gives a record."""

    def forward(self, width: int = 1, input_ids: Any = None) -> Any:
        return SimpleNamespace(logits=self.logits(input_ids), width=width)


class Wrapper(Parts):
    """Passes on whatever it is given, as wrappers do."""

    def forward(self, *args: Any, **others: Any) -> Any:
        return self.called(*args, **others)

    def called(self, input_ids: Tensor, use_cache: bool = True) -> Any:
        """The logits of ``input_ids``."""
        return self.logits(input_ids)


class Keeping(Parts):
    """Remembers how much it has seen, unless it is asked not to, and calls its ids by another name."""

    seen = 0

    def forward(self, tokens: Tensor, use_cache: bool = True) -> Any:
        if use_cache:
            self.seen += tokens.numel()
        return self.logits(tokens)


class Measuring(Parts):
    """Gives its rotary embeddings positions that are no whole numbers, but as good as these."""

    def forward(self, ids: Tensor) -> Any:
        places = torch.arange(ids.shape[1], dtype=torch.float32)[None]
        return self.lm_head(self.model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state)


KINDS: tuple[type[Parts], ...] = (Plain, Several, Record, Wrapper, Keeping)
