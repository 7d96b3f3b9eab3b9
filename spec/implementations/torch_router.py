"""okr.routing itself: its tensor functions, and its ways of selecting in NumPy, one token and many."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from okr.routing import check_setting, keys, rows, scores, selection, single

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


class SingleRouter(TorchRouter):
    """Selects token by token in NumPy, as attached routers do while a text is generated."""

    name = "single"

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Any:
        """See okr.routing.single.route_one."""
        check_setting(top_k, choice.shape[1], epsilon, zone, strength)
        taken = np.argsort(-choice, axis=1, kind="stable")[:, :top_k]
        opportunity = np.zeros(len(choice), bool)
        with np.errstate(all="ignore"):
            for row, (c, g) in enumerate(zip(choice, key_scores, strict=True)):
                if np.isfinite(g).all():  # otherwise it is not asked
                    keyed = single.route_one(c, g, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength)
                    if keyed is not None:
                        taken[row], opportunity[row] = keyed, True
        return {"indices": taken, "opportunity": opportunity}


class RowsRouter(TorchRouter):
    """Selects many tokens in NumPy, as attached routers do in prefill, replay and detection on a CPU."""

    name = "rows"

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Any:
        """See okr.routing.rows.route_rows."""
        check_setting(top_k, choice.shape[1], epsilon, zone, strength)
        key_scores = np.where(np.isfinite(key_scores).all(1, keepdims=True), key_scores, np.float32(np.nan))
        native = np.argsort(-choice, axis=1, kind="stable")[:, :top_k]
        keyed, opportunity = rows.route_rows(
            choice, key_scores, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength
        )
        return {"indices": np.where(opportunity[:, None], keyed, native), "opportunity": opportunity}


eager = TorchRouter()
in_rows = RowsRouter()
one_by_one = SingleRouter()
