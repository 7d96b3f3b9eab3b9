"""okr.routing itself: its tensor functions, and its compiled loops for tokens in memory."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from okr.routing import check_setting, compiled, keys, scores, selection

Array = NDArray[Any]


class TorchRouter:
    """The package's own pure functions on CPU tensors."""

    name = "torch"

    def projection(self, secret: bytes, *, stack: str, layer: int, hidden_size: int, num_experts: int) -> Array:
        """See okr.routing.keys.projection."""
        return keys.projection(secret, stack=stack, layer=layer, hidden_size=hidden_size, num_experts=num_experts)

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """See okr.routing.scores.key_scores."""
        return scores.key_scores(torch.tensor(hidden), torch.tensor(projection, dtype=torch.float32)).numpy()

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Any:
        """See okr.routing.selection.select."""
        check_setting(top_k, choice.shape[1], epsilon, zone, strength)
        answer = self.selected(torch.tensor(choice), torch.tensor(key_scores), top_k, epsilon, zone, strength)
        return {name: part.numpy() for name, part in answer._asdict().items()}

    def selected(
        self, choice: torch.Tensor, key: torch.Tensor, top_k: int, epsilon: float, zone: str, strength: float
    ) -> selection.Selection:
        return selection.select(choice, key, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength)


class LoweredRouter(TorchRouter):
    """The same within torch's autocast, which would multiply in bfloat16."""

    name = "autocast"

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        with torch.autocast("cpu", torch.bfloat16):
            return super().key_scores(hidden, projection)

    def selected(
        self, choice: torch.Tensor, key: torch.Tensor, top_k: int, epsilon: float, zone: str, strength: float
    ) -> selection.Selection:
        with torch.autocast("cpu", torch.bfloat16):
            return super().selected(choice, key, top_k, epsilon, zone, strength)


class CompiledRouter(TorchRouter):
    """Selects by the compiled loops, as attached routers do on a CPU."""

    name = "numba"

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Any:
        """See okr.routing.compiled.Selector."""
        check_setting(top_k, choice.shape[1], epsilon, zone, strength)
        native = np.argsort(-choice, axis=1, kind="stable")[:, :top_k]
        selector = compiled.Selector(top_k=top_k, epsilon=epsilon, zone=zone, strength=strength)
        keyed, opportunity, _ = selector(*(np.array(scores, np.float32, order="C") for scores in (choice, key_scores)))
        return {"indices": np.where(opportunity[:, None], keyed, native), "opportunity": opportunity}


eager = TorchRouter()
autocast = LoweredRouter()
loops = CompiledRouter()
