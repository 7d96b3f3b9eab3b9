"""Where a checkpoint's files are, and the key of a baked model taken out in memory."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from okr.baking.arithmetic import step, without_key
from okr.baking.header import HEADER_FILE, Header, read_header
from okr.errors import InvalidConfig
from okr.loaders import hub
from okr.loaders.exported import exported
from okr.loaders.sources import resolve
from okr.routing import Key
from okr.traces import ModelIdentity, Trace


@dataclass(frozen=True)
class Baked:
    """A baked model in use: its ``header``, and its ``identity`` as it is stored, which its traces have."""

    header: Header
    identity: ModelIdentity

    def told(self, trace: Trace, now: ModelIdentity) -> Trace:
        """``trace`` with the identity ``now`` of the model in place of that of the stored one, if it has that, and with
        the setting of the header, if it has none."""
        header: dict[str, Any] = {}
        if not trace.header.model.difference(self.identity):
            header["model"] = now
        if trace.header.epsilon is None:
            header |= vars(self.header.setting)
        return replace(trace, header=trace.header.model_copy(update=header))


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
