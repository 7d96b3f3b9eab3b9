"""Finds the device on which a model takes its tokens."""

import torch
from torch import Tensor, nn


def input_device(model: nn.Module) -> torch.device:
    """The device on which ``model`` takes token ids: where its input embeddings run, or where its first parameter is if
    it names no embeddings."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    weight = getattr(embedding, "weight", None)
    first = weight if isinstance(weight, Tensor) else next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
