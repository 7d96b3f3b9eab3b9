"""The command itself: help without heavy imports, exit codes, what goes to which stream."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from okr.cli import execute
from okr.routing import Key

COMMANDS = ("keygen", "discover", "run", "verify", "validate", "report", "conform")
HEAVY = ("torch", "transformers", "matplotlib", "scipy", "numpy")


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run ``code`` in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from okr.cli import execute\n"
        "codes = [execute(words.split()) for words in sys.argv[1:]]\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('CODES', codes, 'HEAVY', heavy)\n"
    )
    done = fresh(code, "--help", *(f"{command} --help" for command in COMMANDS))
    assert done.returncode == 0, done.stderr
    assert f"CODES {[0] * 8} HEAVY []" in done.stdout
    assert all(f"--{option}" in done.stdout for option in ("output-dir", "epsilon", "resume", "decoys", "json"))


@pytest.mark.parametrize(
    "words",
    [["run", "--epsilon", "-1"], ["run", "huge"], ["run", "--config", "nowhere.toml"], ["run", "--samples", "x"]],
)
def test_arguments_of_run_are_checked_before_torch_is_imported(words: list[str], tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from okr.cli import execute\n"
        "os.chdir(sys.argv.pop(1))\n"
        "code = execute(sys.argv[1:])\n"
        "print(code, 'torch' in sys.modules, os.listdir())\n"
    )
    done = fresh(code, str(tmp_path), *words)
    assert done.stdout.strip() == "2 False []"
    assert done.stderr.startswith("okr: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["okr.run", "okr.cli"])
def test_modules_are_the_command(module: str) -> None:
    words = [] if module == "okr.run" else ["run"]
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--zone", "middle"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "okr: --zone: must be 'max' or 'boundary', got 'middle'\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["fly"], "No such command 'fly'"),
        (["run", "--fly"], "No such option"),
        (["verify", "tiny"], "Missing"),
        (["verify", "tiny", "t", "--key", "k", "--epsilon", "nan"], "--epsilon must be a number >= 0"),
        (["verify", "tiny", "t", "--key", "k", "--strength", "0"], "--strength must be a number > 0"),
        (["verify", "tiny", "t", "--key", "k", "--zone", "x"], "--zone must be max or boundary"),
        (["verify", "tiny", "t", "--key", "k", "--setting", "x"], "--setting must be quiet or loud, got 'x'"),
        (["attribute", "tiny", "t", "--key", "k", "--setting", "x"], "--setting must be quiet or loud, got 'x'"),
        (["detect", "tiny", "t", "--key", "k", "--setting", "x"], "--setting must be quiet or loud, got 'x'"),
        (["detect", "tiny", "t", "--key", "k", "--strength", "1"], "say which setting the text was written under"),
        (["run", "--setting", "x"], "--setting: must be 'quiet' or 'loud', got 'x'"),
        (["verify", "tiny", "t", "--key", "nowhere.json"], "cannot read key file nowhere.json"),
        (["validate", "nowhere.json"], "cannot read nowhere.json"),
        (["discover", "no such model"], "there is no such folder"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    words: list[str], complaint: str, capfd: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


def test_keygen_makes_a_key_for_its_owner_only(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "key.json"
    assert execute(["keygen", str(path), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said == {"key_id": Key.load(path).id, "path": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert execute(["keygen", str(path)]) == 2
    assert "never overwritten" in capfd.readouterr().err
    assert path.read_bytes() == content


def test_keygen_from_a_passphrase_on_stdin(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    command = [sys.executable, "-m", "okr.cli", "keygen", str(path), "--passphrase"]
    done = subprocess.run(
        command, input="correct horse battery\n", capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == 0, done.stderr
    assert Key.load(path) == Key.from_passphrase("correct horse battery")
    assert "horse" not in done.stdout + done.stderr
    short = subprocess.run(
        [*command[:-2], str(tmp_path / "short.json"), "--passphrase"],
        input="short\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (short.returncode, os.listdir(tmp_path)) == (2, ["key.json"])  # noqa: PTH208
    assert "at least 12 characters" in short.stderr


def test_an_internal_error_is_exit_code_3(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("okr.experiment.results.Results.load", broken)
    assert execute(["validate", "results.json"]) == 3
    printed = capfd.readouterr().err
    assert "ZeroDivisionError: unforeseen" in printed
    assert printed.splitlines()[-1].startswith("okr: internal error")


def test_discover_says_what_was_looked_at_when_asked(capfd: pytest.CaptureFixture) -> None:
    assert execute(["discover", "tiny", "--log", "--json"]) == 0
    printed = capfd.readouterr()
    paths = [site["path"] for site in json.loads(printed.out)]
    assert paths == [f"model.layers.{layer}.mlp.gate" for layer in (1, 2, 3)]
    assert "model.layers.0.mlp.gate_proj (Linear): not a router: neither recorded" in printed.err
    assert all(f"{path} (DeepseekV2TopkRouter): router" in printed.err for path in paths)
