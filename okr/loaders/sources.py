"""Finds the place that a model is loaded from: what a name means, and where it is looked for, in which order."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

from okr.errors import ModelLoadError

log = logging.getLogger("okr")

EMBEDDED = ("tiny-deepseek-moe", "tiny-switch")
"""Names of the models that ship with the package and need no network."""

RANDOM = "deepseek-moe-random"
"""The name of a model of DeepSeek-MoE-16B's shape with random weights. It needs no files and no network."""

DEEPSEEK_HUB = "deepseek-ai/deepseek-moe-16b-base"
DEEPSEEK_VARIABLE = "DEEPSEEK_MOE_LOCAL_PATH"
DEEPSEEK_FOLDER = "/root/private_data/model/DeepSeek-MoE"

PRESETS = {
    "tiny": "tiny-deepseek-moe",
    "tiny-switch": "tiny-switch",
    "switch": "google/switch-base-8",
    "deepseek-moe": DEEPSEEK_HUB,
}
"""What each preset loads. ``deepseek-moe`` looks in two local folders before the hub."""

ALIASES = {"deepseek-ai/deepseek-moe-16b": DEEPSEEK_HUB}  # in lower case; a name in use that its makers do not list

_FOLDER = Path(__file__).parent / "embedded"


@dataclass(frozen=True)
class Place:
    """One place to load a model from.

    ``name`` is its name in errors and results. ``location`` is a folder, or the hub id if ``kind`` is ``hub``.
    ``passed`` lists the places that were searched before, and why each was passed over. ``advice`` says what to do if
    the model is not there.
    """

    kind: Literal["embedded", "folder", "hub", "random"]
    name: str
    location: str
    passed: tuple[str, ...] = ()
    advice: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is loaded without a hub."""
        return self.kind != "hub"


def holds_model(folder: str) -> bool:
    """Whether ``folder`` is a directory with a ``config.json`` that this process may see."""
    return os.path.isfile(os.path.join(folder, "config.json"))  # noqa: PTH113, PTH118 - pathlib raises on no access


def _could_be_on_a_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _exists(folder: str) -> bool:
    return os.path.lexists(folder)


def _why_not(folder: str) -> str:
    return "it has no readable config.json" if _exists(folder) else "there is no such folder"


def resolve(source: str | os.PathLike[str]) -> Place:
    """The place that ``source`` names: an embedded model, a preset, a folder or a hub id.

    The names of embedded models and presets take precedence over folders (``./tiny`` is the folder). Only file names
    are read, and the network is not used.

    Raises ModelLoadError if there is no such folder or embedded model, or if no hub could have the name.
    """
    if not isinstance(source, str | os.PathLike):
        raise ModelLoadError(f"a model is named by a string or a path, got {type(source).__name__}")
    name = os.fspath(source)
    if not isinstance(name, str) or not name.strip():
        raise ModelLoadError("no model was named: give an embedded name, a preset, a folder or a hub id")
    if isinstance(source, str):
        if name == "deepseek-moe":
            return _guide_search()
        if name == RANDOM:
            return Place("random", name, name)
        target = PRESETS.get(name, name)
        if target in EMBEDDED:
            return _embedded(target)
        if target != name:
            return _hub(target, ())
    folder = os.path.expanduser(name)  # noqa: PTH111 - the string is kept as the user wrote it
    if _exists(folder):
        if not holds_model(folder):
            raise ModelLoadError(f"{name} is no model: it has no readable config.json; give a model's own folder")
        return Place("folder", name, folder)
    if not isinstance(source, str) or not _could_be_on_a_hub(name):
        known = ", ".join(sorted({*PRESETS, *EMBEDDED, RANDOM}))
        raise ModelLoadError(f"{name}: there is no such folder, and it is no hub id (owner/name) nor one of {known}")
    return _hub(name, (f"folder {name} (there is no such folder)",))


def _embedded(name: str) -> Place:
    folder = str(_FOLDER / name)
    if not holds_model(folder):
        raise ModelLoadError(
            f"the embedded model {name} is missing from this installation (looked in {folder}): reinstall the package"
        )
    return Place("embedded", name, folder)


def _hub(name: str, passed: tuple[str, ...]) -> Place:
    target = ALIASES.get(name.lower())
    if target is not None:
        log.info("%s is taken as an alias of %s: its makers list no model of that name", name, target)
    return Place("hub", target or name, target or name, passed)


def _guide_search() -> Place:
    """The place of DeepSeek-MoE, in the guide's order: the folder in the environment variable, the guide's folder, the
    hub."""
    folder = os.environ.get(DEEPSEEK_VARIABLE, "")
    if folder:
        if not holds_model(os.path.expanduser(folder)):  # noqa: PTH111
            raise ModelLoadError(
                f"DeepSeek-MoE: {DEEPSEEK_VARIABLE} is set to {folder}, but {_why_not(os.path.expanduser(folder))}: "  # noqa: PTH111
                f"point it to the folder with config.json and the safetensors files, or unset it to look in "
                f"{DEEPSEEK_FOLDER} and on the hub"
            )
        return Place("folder", folder, os.path.expanduser(folder))  # noqa: PTH111
    passed: tuple[str, ...] = (f"{DEEPSEEK_VARIABLE} (not set)",)
    if holds_model(DEEPSEEK_FOLDER):
        return Place("folder", DEEPSEEK_FOLDER, DEEPSEEK_FOLDER, passed)
    passed += (f"{DEEPSEEK_FOLDER} ({_why_not(DEEPSEEK_FOLDER)})",)
    return Place("hub", DEEPSEEK_HUB, DEEPSEEK_HUB, passed, advice=f"set {DEEPSEEK_VARIABLE} to the model's folder")
