"""Where a checkpoint's files are, and the key of a baked model taken out in memory."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from okr.baking.arithmetic import step, without_key
from okr.baking.header import Header, read_header
from okr.errors import InvalidConfig
from okr.loaders import hub
from okr.loaders.exported import exported
from okr.loaders.sources import resolve
from okr.routing import Key


def checkpoint_folder(model: str) -> Path:
    """The folder with the files of ``model``. An embedded model is written out first, and a hub's is downloaded."""
    place = resolve(model)
    if place.kind == "folder":
        return Path(place.location)
    return hub.downloaded(place) if place.kind == "hub" else exported(place)


def header_of(model: str) -> Header | None:
    """The header of the baked checkpoint that ``model`` names, or None for any other model."""
    place = resolve(model)
    return read_header(Path(place.location)) if place.kind == "folder" else None


@torch.no_grad()
def take_out(model: nn.Module, header: Header, keys: Iterable[Key]) -> bool:
    """Take the key of ``header`` out of the gates of ``model``, which was loaded from the baked checkpoint, if it is
    one of ``keys``. Whether it was.

    The model is then the original but for rounding, and knows nothing of the key: traces may be judged with it. Raises
    InvalidConfig if ``model`` has other gates than the header says.
    """
    key = next((key for key in keys if key.id == header.key_id), None)
    if key is None:
        return False
    named = dict(model.named_parameters())
    for gate in header.gates:
        weight = named.get(gate.parameter)
        if weight is None or weight.shape != (gate.num_experts, gate.hidden_size):
            raise InvalidConfig(f"the model has no gate {gate.parameter} of {gate.num_experts} experts")
        signs = torch.from_numpy(gate.signs(key)).to(weight.device)
        weight.copy_(without_key(weight, signs, step(header.strength, gate.norm)))
    return True
