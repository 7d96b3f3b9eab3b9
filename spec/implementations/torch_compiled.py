"""okr.routing through torch.compile, with shapes and settings left dynamic.

Each combination that the compiler specialises on (zone, finite or infinite strength, one or many tokens) is a graph of
its own; beyond GRAPHS of them torch falls back to eager code, silently, which the suite cannot see.
"""

from typing import Any

import torch

from okr.routing import scores, selection

from .torch_router import Array, TorchRouter

GRAPHS = 64


class CompiledRouter(TorchRouter):
    """Compiles on first use."""

    name = "compile"

    def __init__(self) -> None:
        self._select: Any = torch.compile(selection.select, dynamic=True)
        self._scores: Any = torch.compile(scores.key_scores, dynamic=True)

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """See okr.routing.scores.key_scores."""
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            answer: Array = self._scores(torch.tensor(hidden), torch.tensor(projection, dtype=torch.float32)).numpy()
        return answer

    def selected(
        self, choice: torch.Tensor, key: torch.Tensor, top_k: int, epsilon: float, zone: str, strength: float
    ) -> selection.Selection:
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            answer: selection.Selection = self._select(
                choice, key, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength
            )
        return answer


compiled = CompiledRouter()
