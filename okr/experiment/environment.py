"""What a run ran on: versions, device, source revision."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from okr.discovery import input_device
from okr.version import __version__


def describe(model: nn.Module) -> dict[str, Any]:
    """The fields of results.Environment."""
    commit, dirty = _revision()
    names = ("torch", "transformers", "accelerate", "numpy", "scipy", "safetensors", "tokenizers", "pydantic")
    return {
        "device": _device(model),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": {"okr": __version__, "python": platform.python_version()} | {n: version(n) for n in names},
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _device(model: nn.Module) -> str:
    device = input_device(model)
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores)"


def _revision() -> tuple[str | None, bool | None]:
    """The commit of the source tree that this package is a tracked part of, and whether tracked files differ."""
    folder = Path(__file__).parents[1]
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
    return _git(folder, "rev-parse", "HEAD"), None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
