"""A baked checkpoint appears whole or not at all, and only where it may."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from okr.baking import bake
from okr.baking.folders import new_folder
from okr.errors import InvalidConfig
from tests.unit.baking.sharded import BESIDE, KEY, baking, files, known, refused, write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


CHILD = """
import os, signal, sys
from pathlib import Path
from tests.unit.baking.sharded import KEY, baking, known, refused
from okr.baking import bake
left = int(sys.argv[3])
def event(name, given):
    global left
    if name in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and ".part" in str(given[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
model = Path(sys.argv[1])
gates = known(model)
sys.addaudithook(event)
bake(model, Path(sys.argv[2]), KEY, gates, 0.5)
"""


def test_a_killed_process_leaves_nothing_under_the_name_and_the_next_gives_the_same_bytes(
    model: Path, tmp_path: Path, warm: Path
) -> None:
    """Killed (SIGKILL) before every few of the files that it makes, opens or moves, in one target."""
    baking(model, tmp_path / "whole")
    target, kills = tmp_path / "target", 0
    for allowed in range(0, 200, 7):
        words = [str(warm / "python"), "-c", CHILD, str(model), str(target), str(allowed)]
        done = subprocess.run(words, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        if done.returncode == 0:
            break
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert not target.exists()
        kills += 1
    assert kills > 4
    assert files(target) == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "target", "whole"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_at_any_write_leaves_nothing(
    error: BaseException, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates, calls, limit = known(model), 0, 0

    def failing(function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise error
            return function(*given, **named)

        return call

    for place, name in ((shutil, "copyfile"), (os, "fsync"), (Path, "mkdir"), (Path, "rename"), (Path, "replace")):
        monkeypatch.setattr(place, name, failing(getattr(place, name)))
    for allowed in range(100):
        calls, limit = 0, allowed
        try:
            bake(model, tmp_path / "new" / "deep" / "target", KEY, gates, 0.5)
            break
        except (InvalidConfig, KeyboardInterrupt) as caught:
            kind, said = type(caught), str(caught)
        assert kind is (InvalidConfig if isinstance(error, OSError) else KeyboardInterrupt)
        if isinstance(error, OSError):
            assert said == f"cannot write {tmp_path / 'new' / 'deep' / 'target'}: No space left on device"
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert allowed > len(BESIDE) + 3 + 3


def test_two_processes_never_write_one_folder(model: Path, tmp_path: Path) -> None:
    with new_folder(tmp_path / "target", model) as first:
        (first / "file").write_text("first")
        refused("is being written by another process", model, tmp_path / "target", KEY, known(model), 0.5)
        assert (first / "file").read_text() == "first"
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["file"]
    refused("exists: name a folder that does not", model, tmp_path / "target", KEY, known(model), 0.5)


def test_where_it_may_not_be_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = known(model)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    for name in (model, "model", f"{model}/", "model/.", "model/..", "empty", "empty/", "dangling", ".", "none/..", "/",
                 "model/config.json"):  # fmt: skip
        refused("exists: name a folder that does not", model, Path(name), KEY, gates, 0.5)
    for name in ("model/out", "model/new/out", "link/out", "none/../model/out", "model/config.json/../out"):
        refused("is in", model, Path(name), KEY, gates, 0.5)
    refused("cannot write", model, tmp_path / ("a" * 256), KEY, gates, 0.5)
    refused("cannot write", model, tmp_path / "dangling" / "out", KEY, gates, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "empty", "link", "model"]
    bake(model, tmp_path / ("a" * 255), KEY, gates, 0.5)
    os.chdir(model)
    bake(Path(), Path("../b"), KEY, gates, 0.5)
    assert files(tmp_path / ("a" * 255)) == files(tmp_path / "b")


def test_a_read_only_folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *given: Any, **named: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    refused("Permission denied", model, tmp_path / "out", KEY, known(model), 0.5)
