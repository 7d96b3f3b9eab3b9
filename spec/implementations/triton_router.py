"""The package's Triton kernels: on a CUDA card where there is one, otherwise interpreted on the CPU."""

import os
from typing import Any

import numpy as np
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported

from okr.routing import check_setting, triton_kernels

from .torch_router import Array, TorchRouter


class TritonRouter(TorchRouter):
    """Both kernels, asked with the arrays of the suite."""

    name = "triton"

    def __init__(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def key_scores(self, hidden: Array, projection: Array) -> Array:
        """See okr.routing.triton_kernels.products."""
        states, signs = (torch.tensor(array, device=self.device) for array in (hidden, projection))
        answer: Array = triton_kernels.products(states, signs)[0].cpu().numpy()
        return answer

    def select(
        self, choice: Array, key_scores: Array, *, top_k: int, epsilon: float, zone: str, strength: float
    ) -> Any:
        """See okr.routing.triton_kernels.choose."""
        check_setting(top_k, choice.shape[1], epsilon, zone, strength)
        native = np.argsort(-choice, axis=1, kind="stable")[:, :top_k]
        scores, keys, own = (torch.tensor(array, device=self.device) for array in (choice, key_scores, native))
        taken, _ = triton_kernels.choose(
            scores, keys, own, log=False, top_k=top_k, epsilon=epsilon, zone=zone, strength=strength
        )
        return taken.cpu().numpy()


router = TritonRouter()
