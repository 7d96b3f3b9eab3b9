"""Runs commands in process on the small DeepSeek-MoE and its baked copy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from okr.cli import execute

STRENGTH = 1.0
GATES = ["model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(words: list[str], capfd: pytest.CaptureFixture) -> str:
    """The one line of a command that must fail."""
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("okr: ")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    return str(lines[0])


def said(words: list[str], capfd: pytest.CaptureFixture, code: int = 0) -> dict[str, Any]:
    assert execute([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def copied(source: Path, target: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with other tensors; None removes one."""
    shutil.copytree(source, target)
    held = load_file(source / "model.safetensors") | changes
    kept = {name: value for name, value in held.items() if value is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target
