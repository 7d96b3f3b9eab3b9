"""A small DeepSeek-MoE, baked once for all tests of commands."""

from pathlib import Path

import pytest

from okr.cli import execute
from okr.routing import Key
from tests.unit.commands.baked_checkpoints import STRENGTH


@pytest.fixture(scope="session")
def two_passages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two passages: enough to measure on."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(f"word{n} and more" for n in range(first, first + 30)) for first in (0, 40)))
    return str(path)


@pytest.fixture(scope="session")
def norms(deepseek_folder: Path, key_file: Path, two_passages: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is measured of the small DeepSeek-MoE's gates."""
    folder = tmp_path_factory.mktemp("norms")
    words = ["bake", str(deepseek_folder), str(folder / "baked"), "--key", str(key_file), "--text", two_passages]
    assert execute([*words, "--norms", str(folder / "norms.json")]) == 0
    return str(folder / "norms.json")


@pytest.fixture(scope="session")
def baked(deepseek_folder: Path, key_file: Path, norms: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baked") / "model"
    words = ["bake", str(deepseek_folder), str(folder), "--key", str(key_file), "--norms", norms]
    assert execute([*words, "--strength", str(STRENGTH)]) == 0
    return folder


@pytest.fixture(scope="session")
def foreign_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other.json"
    Key(bytes(range(32))).save(path)
    return path
