"""Finds the gates of a checkpoint that has no header, by its configuration and the names and shapes of its tensors."""

import re
from pathlib import Path

from torch import nn

from okr.baking.arithmetic import GATE_DTYPES
from okr.baking.checkpoint import Checkpoint
from okr.baking.header import UnreadGate
from okr.discovery import RouterSite, keyable_sites
from okr.discovery.discover import without_weights
from okr.errors import InvalidConfig
from okr.loaders import architecture

_GATE_WORDS = {"gate", "router", "wg", "classifier"}


def find_gates(folder: Path, *, trust_remote_code: bool = False) -> list[UnreadGate]:
    """The gates of the checkpoint in ``folder``. Nothing is read but its configuration and the heads of its files.

    Raises InvalidConfig if a gate's tensor cannot be told from others.
    """
    model = without_weights(architecture(folder, trust_remote_code=trust_remote_code))
    checkpoint, found = Checkpoint(folder), []
    for site in keyable_sites(model):
        found.append(
            UnreadGate(
                stack=site.stack,
                layer=site.layer,
                num_experts=site.num_experts,
                hidden_size=site.hidden_size,
                tensor=_tensor(checkpoint, model, site),
            )
        )
    return found


def _tensor(checkpoint: Checkpoint, model: nn.Module, site: RouterSite) -> str:
    """The name of a site's gate in the checkpoint: that of its parameter, or of the one gate of the same layer."""
    shape = (site.num_experts, site.hidden_size)
    fitting = {
        name
        for name, stored in checkpoint.tensors.items()
        if stored.shape == shape and stored.dtype in GATE_DTYPES and _numbers(name) == _numbers(site.path)
    }
    prefix = f"{site.path}." if site.path else ""
    own = [prefix + name for name, part in model.get_submodule(site.path).named_parameters() if part.shape == shape]
    named = [name for name in own if name in fitting]
    named = named or [name for name in sorted(fitting) if _GATE_WORDS & set(name.split("."))]
    if len(named) != 1:
        said = f"has {' and '.join(named)}" if named else "has no float tensor"
        raise InvalidConfig(f"{checkpoint.folder} {said} for the gate of {site.path}: give --header its okr.json")
    return named[0]


def _numbers(name: str) -> list[str]:
    """The numbers in a name, such as those of its layer."""
    return re.findall(r"\d+", name)
