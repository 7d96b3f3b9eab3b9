"""Mistakes at the command line that reach further than its parser: still one line, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from okr.cli import execute
from okr.routing import Key


def refused(words: list[str], capfd: pytest.CaptureFixture) -> str:
    """The one line of a command that must fail."""
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("okr: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A key and a trace of the embedded model."""
    import okr

    key = Key(bytes(range(32)))
    key.save(tmp_path / "key.json")
    model = okr.load("tiny").model
    with okr.watermark(model, key, epsilon=2.0) as watermark:
        made = watermark.generate(input_ids=torch.arange(5, 10)[None], max_new_tokens=4)
    made.traces[0].save(tmp_path / "trace.safetensors")
    return {"key": str(tmp_path / "key.json"), "trace": str(tmp_path / "trace.safetensors")}


@pytest.mark.parametrize("source", ["env:OKR_TEST_KEY", "fd:999999"])
def test_a_key_that_is_no_file_reaches_every_command(
    source: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OKR_TEST_KEY", raising=False)
    (tmp_path / "text.txt").write_text("a text")
    kind, _, name = source.partition(":")
    for words in (
        ["verify", "tiny", str(tmp_path / "t.safetensors")],
        ["detect", "tiny", str(tmp_path / "text.txt"), "--epsilon", "1"],
        ["attribute", "tiny", str(tmp_path / "t.safetensors"), "--key", source],
        ["run", "tiny", "--output-dir", str(tmp_path / "out")],
    ):
        said = refused([*words, "--key", source], capfd)
        assert f"{'environment variable' if kind == 'env' else 'file descriptor'} {name}" in said


def test_a_key_in_the_variable_that_names_its_file_is_not_shown(
    files: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Path(files["key"]).read_text()
    monkeypatch.setenv("OKR_KEY", content)
    for words in (["run", "tiny", "--output-dir", str(tmp_path / "out")], ["verify", "tiny", "x", "--key", content]):
        said = refused(words, capfd)
        assert "the content of a key file was given where its name belongs" in said
        assert "secret" not in said.replace("mounted secret", "")
    assert not (tmp_path / "out").exists()


def test_verify_with_a_key_from_the_environment(
    files: dict[str, str], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKR_TEST_KEY", Path(files["key"]).read_text())
    words = ["verify", "tiny", files["trace"], "--epsilon", "2", "--json"]
    assert execute([*words, "--key", files["key"]]) in (0, 1)
    from_file = capfd.readouterr().out
    assert execute([*words, "--key", "env:OKR_TEST_KEY"]) in (0, 1), capfd.readouterr().err
    assert capfd.readouterr().out == from_file


def test_without_arguments_it_says_what_there_is(capfd: pytest.CaptureFixture) -> None:
    assert execute([]) == 2
    printed = capfd.readouterr().err
    assert "\nCommands:\n" in printed
    assert len(printed.splitlines()) > 10, "the help as it is meant to be read"


def test_a_passphrase_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "okr.cli", "keygen", str(path), "--passphrase"],
        input="geheime Wörter überall\n".encode("latin-1"),
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"okr: a passphrase must be valid Unicode text")
    assert done.stderr.count(b"\n") == 1
    assert b"geheim" not in done.stdout + done.stderr
    assert not path.exists()


def test_a_folder_without_keys_is_named(files: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    words = ["attribute", "tiny", files["trace"], "--key", str(tmp_path / "empty")]
    assert f"the folder {tmp_path / 'empty'} holds no key file" in refused(words, capfd)


def test_more_decoys_than_can_be_counted(files: dict[str, str], capfd: pytest.CaptureFixture) -> None:
    words = ["verify", "tiny", files["trace"], "--key", files["key"], "--decoys", "999999999"]
    assert "decoys must lie between 1 and 1,000,000, got 999999999" in refused(words, capfd)


def test_running_out_of_memory_in_any_command_is_advice(
    files: dict[str, str], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        torch.empty(2**48, dtype=torch.uint8)

    monkeypatch.setattr("okr.detection.verification.SiteTally", exhausted)
    line = refused(["verify", "tiny", files["trace"], "--key", files["key"]], capfd)
    for part in ("out of memory", "281474976710656 bytes more were asked for", "fewer --decoys or --rows"):
        assert part in line


def test_nothing_is_shown_of_a_bar_where_nobody_looks(files: dict[str, str], capfd: pytest.CaptureFixture) -> None:
    """Standard error is no terminal here: a result leaves it empty."""
    assert execute(["attribute", "tiny", files["trace"], "--key", files["key"]]) in (0, 1)
    assert capfd.readouterr().err == ""
