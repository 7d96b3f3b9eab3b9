"""Output folders: made, refused, and gone again where nothing was written."""

import json
import os
from pathlib import Path

import pytest

from okr.errors import InvalidConfig
from okr.jobs.folders import writable_folder, write_atomically


def test_an_output_folder_left_empty_vanishes_with_the_parents_made_for_it(tmp_path: Path) -> None:
    with writable_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with writable_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").write_text("")
    assert (tmp_path / "a" / "b" / "kept").exists()


def test_an_empty_folder_of_the_users_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with writable_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidConfig, match=r"cannot write to the output folder .*choose another with --output-dir"),
        writable_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, json.dumps({"old": True}))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidConfig, match="No space left"):
        write_atomically(path, "new")
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["results.json"]  # noqa: PTH208
