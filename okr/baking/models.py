"""Where a checkpoint's files are, and the key of a baked model taken out in memory."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from okr.baking.arithmetic import step, without_key
from okr.baking.header import HEADER_FILE, Header, read_header
from okr.engines.transformers import TransformersEngine
from okr.errors import InvalidConfig
from okr.loaders import hub
from okr.loaders.exported import exported
from okr.loaders.sources import resolve
from okr.routing import Key
from okr.traces import ModelIdentity


class UnbakedEngine(TransformersEngine):
    """A model whose key was taken out of its gates. Traces know it as the model that it was before: ``baked``."""

    def __init__(self, model: nn.Module, baked: ModelIdentity) -> None:
        super().__init__(model)
        self._baked = baked

    def identity(self) -> ModelIdentity:
        """The identity of the baked model."""
        return self._baked


def unbaked(model: nn.Module, header: Header, keys: Iterable[Key]) -> TransformersEngine:
    """The engine by which traces and texts of a baked model are judged (OKR-BAKE-004).

    ``model`` was loaded from the checkpoint that ``header`` describes. If the key of ``header`` is one of ``keys``, it
    is taken out of the model's gates, in place (:func:`take_out`). Otherwise the model stays as it is.
    """
    engine = TransformersEngine(model)
    baked = engine.identity()
    return UnbakedEngine(model, baked) if take_out(model, header, keys) else engine


def checkpoint_folder(model: str) -> Path:
    """The folder with the files of ``model``. An embedded model is written out first, and a hub's is downloaded."""
    place = resolve(model)
    if place.kind == "folder":
        return Path(place.location)
    return hub.downloaded(place) if place.kind == "hub" else exported(place)


def model_name(model: str) -> str:
    """The name of ``model`` in a header. Of a folder it is the last part: its place is nobody's business."""
    place = resolve(model)
    return Path(place.location).resolve().name if place.kind == "folder" else place.name


def header_of(model: str) -> Header | None:
    """The header of the baked checkpoint that ``model`` names, or None for any other model."""
    place = resolve(model)
    if place.kind == "hub":
        file = hub.file_of(place, HEADER_FILE)
        return None if file is None else read_header(file.parent)
    return read_header(Path(place.location)) if place.kind == "folder" else None


def refuse_baked(model: str) -> None:
    """Raise InvalidConfig if ``model`` is baked: a key on top of it would be a second one."""
    if header_of(model) is not None:
        raise InvalidConfig(f"{model} is baked: its weights carry a key already, so leave --key out")


@torch.no_grad()
def take_out(model: nn.Module, header: Header, keys: Iterable[Key]) -> bool:
    """Take the key of ``header`` out of the gates of ``model``, which was loaded from the baked checkpoint, if it is
    one of ``keys``. Whether it was.

    The model is then the original but for rounding, and knows nothing of the key: traces may be judged with it. Raises
    InvalidConfig if ``model`` has other gates than the header says, or has offloaded one.
    """
    key = next((key for key in keys if key.id == header.key_id), None)
    if key is None:
        return False
    named = dict(model.named_parameters())
    for gate in header.gates:
        weight = named.get(gate.parameter)
        if weight is None or weight.shape != (gate.num_experts, gate.hidden_size):
            raise InvalidConfig(f"the model has no gate {gate.parameter} of {gate.num_experts} experts")
        if weight.is_meta:
            raise InvalidConfig(
                f"{gate.parameter} is offloaded, so the key cannot be taken out: give --max-memory more"
            )
        signs = torch.from_numpy(gate.signs(key)).to(weight.device)
        weight.copy_(without_key(weight, signs, step(header.strength, gate.norm)))
    return True
