"""The secret is in the key file and nowhere else: not in a file, on a screen, in a log, a trace or an exception."""

import base64
import io
import json
import logging
from pathlib import Path

import pytest
from small_runs import PASSPHRASE

from okr.cli import execute


def forms(secret: bytes) -> dict[str, bytes]:
    """Every form in which a secret could be written."""
    standard, urlsafe = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    return {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base64": standard.rstrip(b"="),
        "urlsafe base64": urlsafe.rstrip(b"="),
        "repr": repr(secret).encode()[2:-1],
        "list of numbers": ", ".join(map(str, secret)).encode(),
        "passphrase": PASSPHRASE.encode(),
    }


def leaks(secret: bytes, content: bytes) -> list[str]:
    return [name for name, form in forms(secret).items() if form in content]


def stored_secret(path: Path) -> bytes:
    return base64.b64decode(json.loads(path.read_text())["secret"])


def words(model: Path, output: Path, *more: str) -> list[str]:
    flags = {"samples": 2, "max_length": 6, "batch_size": 2, "decoys": 999}
    options = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["run", "tiny", "--model", str(model), "--output-dir", str(output), *options, *more]


def test_the_search_itself_finds_every_form() -> None:
    secret = bytes(range(100, 132))
    for name, form in forms(secret).items():
        assert name in leaks(secret, b"before " + form + b" after")


@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_and_everything_after_it_keep_the_secret(
    fresh: bool,
    deepseek_folder: Path,
    key_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "2")
    out = tmp_path / "out"
    path = out / "key.json" if fresh else key_file
    given = () if fresh else ("--key", str(key_file))
    assert execute(words(deepseek_folder, out, *given)) == 0
    trace = next((out / "traces").glob("watermarked*"))
    assert execute(["verify", str(deepseek_folder), str(trace), "--key", str(path), "--json"]) == 0
    assert execute(["validate", str(out / "results.json")]) == 0
    assert execute(words(deepseek_folder, out, *given, "--resume", "--seed", "5")) == 2
    printed = capfd.readouterr()
    secret = stored_secret(path)
    seen = {"stdout": printed.out, "stderr": printed.err, "log": caplog.text}
    found = {name: leaks(secret, text.encode()) for name, text in seen.items()}
    files = [file for file in out.rglob("*") if file.is_file() and file != path]
    assert len(files) == 3 + 4 + 4, "results, report, log; traces; plan and tasks"
    found |= {str(file): leaks(secret, file.read_bytes()) for file in files}
    assert not {name: leaked for name, leaked in found.items() if leaked}
    assert "another configuration: seed" in printed.err


def damaged_keys(whole: dict) -> dict[str, str]:
    """Key files that cannot be used, each still holding the secret."""
    return {
        "wrong id": json.dumps(whole | {"key_id": "0" * 16}),
        "wrong format": json.dumps(whole | {"format": "other"}),
        "cut": json.dumps(whole)[:-3],
        "not base64": json.dumps(whole | {"secret": whole["secret"] + "!"}),
        "a list": json.dumps([whole]),
    }


@pytest.mark.parametrize("damage", ["wrong id", "wrong format", "cut", "not base64", "a list", "readable by others"])
def test_a_key_file_that_is_refused_is_not_quoted(
    damage: str, key_file: Path, deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    whole = json.loads(key_file.read_text())
    path = tmp_path / "key.json"
    path.write_text(damaged_keys(whole).get(damage, json.dumps(whole)))
    path.chmod(0o644 if damage == "readable by others" else 0o600)
    assert execute(words(deepseek_folder, tmp_path / "out", "--key", str(path))) == 2
    printed = capfd.readouterr()
    assert printed.err.startswith("okr: ")
    assert printed.err.count("\n") == 1
    assert not leaks(stored_secret(key_file), (printed.out + printed.err).encode())
    assert not (tmp_path / "out").exists()


def test_a_traceback_of_an_internal_error_keeps_the_secret(
    key_file: Path, deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError(f"unforeseen, with {arguments!r}")

    monkeypatch.setattr("okr.experiment.tasks.make_batch", broken)
    assert execute(words(deepseek_folder, tmp_path / "out", "--key", str(key_file))) == 3
    printed = capfd.readouterr()
    assert "unforeseen, with (Subject(" in printed.err
    assert "internal error" in printed.err
    assert not leaks(stored_secret(key_file), printed.err.encode())


def test_a_passphrase_is_never_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSPHRASE + "\n"))
    path = tmp_path / "key.json"
    assert execute(["keygen", str(path), "--passphrase"]) == 0
    printed = capfd.readouterr()
    assert not leaks(stored_secret(path), (printed.out + printed.err).encode())
