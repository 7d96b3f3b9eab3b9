"""The folder of a run: what a journal keeps, whatever happens to its end."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.errors import InvalidConfig
from okr.jobs.store import Journal, output_folder, write_atomically

records = st.lists(
    st.fixed_dictionaries(
        {"kind": st.just("batch"), "text": st.text(), "number": st.floats(allow_nan=False, allow_infinity=False)}
    ),
    max_size=5,
)


@given(written=records, cut=st.integers(0, 2000))
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    written: list[dict], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with Journal(path) as journal:
        journal.begin({"kind": "header"})
        for record in written:
            journal.add(record)
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    kept = content[:cut].count(b"\n")
    with Journal(path) as journal:
        assert journal.header == ({"kind": "header"} if kept else None)
        assert journal.records == written[: max(kept - 1, 0)]
        if not kept:
            journal.begin({"kind": "header"})
        journal.add({"kind": "quality"})
    with Journal(path) as journal:
        assert journal.records == [*written[: max(kept - 1, 0)], {"kind": "quality"}]


@pytest.mark.parametrize("line", [b"{not json}\n", b"[1]\n", b'{"no": "kind"}\n', b"\xff\n"])
def test_a_journal_damaged_in_the_middle_is_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"kind": "header"}\n' + line + b'{"kind": "batch"}\n')
    with pytest.raises(InvalidConfig, match="damaged in line 2"):
        Journal(path)


def test_two_runs_never_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.begin({"kind": "header"})
        with pytest.raises(InvalidConfig, match="another run is writing"):
            Journal(path)
    Journal(path).close()


def test_a_journal_in_which_nothing_was_written_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).close()
    assert not path.exists()


def test_a_journal_holds_strict_json_only(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.begin({"kind": "header"})
        with pytest.raises(ValueError, match="Out of range"):
            journal.add({"kind": "batch", "number": float("nan")})


def test_an_output_folder_left_empty_vanishes_with_the_parents_made_for_it(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a" / "b", resume=False) as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with output_folder(tmp_path / "a" / "b", resume=False) as folder:
        (folder / "kept").write_text("")
    assert (tmp_path / "a" / "b" / "kept").exists()


def test_an_empty_folder_of_the_users_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with output_folder(tmp_path / "mine", resume=False):
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_holds_something_is_only_resumed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidConfig, match=r"is not empty: add --resume"), output_folder(tmp_path, resume=False):
        pass
    with pytest.raises(InvalidConfig, match=r"no run to resume"), output_folder(tmp_path, resume=True):
        pass
    assert os.listdir(tmp_path) == ["notes.txt"]  # noqa: PTH208


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidConfig, match=r"cannot write to the output folder .*choose another with --output-dir"),
        output_folder(tmp_path / "file" / "out", resume=False),
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
