"""Ctrl-C and full streams: one line on stderr, the right exit code, nothing left behind, in every command."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from okr.cli import execute
from okr.routing import Key

ROOT = Path(__file__).resolve().parents[3]
NO_RESULT = "okr: stopped; there is no result\n"


def interrupted(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def words(tmp_path: Path, trace_file: Path) -> dict[str, list[str]]:
    """What each command needs to come as far as loading a model."""
    Key(bytes(range(32))).save(tmp_path / "key.json")
    (tmp_path / "text.txt").write_text("some words of text")
    key, trace = ["--key", str(tmp_path / "key.json")], str(trace_file)
    return {
        "detect": ["detect", "tiny", str(tmp_path / "text.txt"), *key, "--epsilon", "1"],
        "verify": ["verify", "tiny", trace, *key],
        "attribute": ["attribute", "tiny", trace, *key],
        "discover": ["discover", "tiny"],
        "calibrate": ["calibrate", "tiny", "--output-dir", str(tmp_path / "deep" / "out")],
        "run": ["run", "tiny", "--output-dir", str(tmp_path / "deep" / "out")],
    }


@pytest.fixture(scope="session")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from small_models import random_deepseek

    import okr

    model = random_deepseek()
    with okr.watermark(model, Key(bytes(range(32))), epsilon=2.0) as watermark:
        made = watermark.generate(input_ids=torch.arange(5, 10)[None], max_new_tokens=4)
    path = tmp_path_factory.mktemp("trace") / "trace.safetensors"
    made.traces[0].save(path)
    return path


@pytest.mark.parametrize("command", ["detect", "verify", "attribute", "discover", "calibrate", "run"])
def test_ctrl_c_is_one_line_and_leaves_nothing(
    command: str,
    words: dict[str, list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = sorted(tmp_path.iterdir())
    for place in ("okr.loaders.load", "okr.jobs.loading.load"):
        monkeypatch.setattr(place, interrupted)
    assert execute(words[command]) == 130
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", NO_RESULT)
    assert sorted(tmp_path.iterdir()) == before


def test_ctrl_c_while_a_passphrase_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okr.commands.keygen._ask_passphrase", interrupted)
    assert execute(["keygen", str(tmp_path / "key.json"), "--passphrase"]) == 130
    assert capfd.readouterr().err == NO_RESULT
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_a_judgement(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okr.spec.command.judge", interrupted)
    assert execute(["conform", "okr", "--profile", "smoke"]) == 130
    assert capfd.readouterr().err == "okr: conform stopped; no report is written and nothing is said about the rest\n"


def test_the_command_begins_where_ctrl_c_is_answered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"]["okr"] == "okr.entry:main"


@pytest.mark.parametrize(
    ("start", "module"),
    [("entry", "typer"), ("entry", "json"), ("run", "typer"), ("run", "okr.cli"), ("commands.conform", "okr.cli")],
)
def test_ctrl_c_while_modules_are_imported(start: str, module: str) -> None:
    """The key is pressed where ``module`` is imported, by the command or by ``python -m okr.run``."""
    begin = f"runpy.run_module('okr.{start}', {{}}, '__main__')"
    if start == "entry":
        begin = "from okr.entry import main; main()"
    code = (
        "import runpy, sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        f"sys.modules.pop({module!r}, None)\n"
        "sys.meta_path.insert(0, Pressed())\n"
        f"{begin}\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "discover", "tiny"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", NO_RESULT)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_find_no_room_are_one_line(unbuffered: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        for command in (["keygen", str(tmp_path / f"key{unbuffered}.json")], ["--help"]):
            done = subprocess.run(
                [sys.executable, "-m", "okr.cli", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=environment,
            )
            assert done.stderr == "okr: cannot write to standard output: No space left on device\n"
            assert done.returncode == 2
        errors = subprocess.run([sys.executable, "-m", "okr.cli", "fly"], stderr=full, env=environment, check=False)
        assert errors.returncode == 2, "where messages find no room, the exit code still tells"


@pytest.mark.parametrize("alpha", ["1e-9", "1e-320"])
def test_levels_that_no_rank_of_a_text_can_reach_are_refused_at_once(
    alpha: str, words: dict[str, list[str]], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okr.loaders.load", interrupted)  # which would be seen
    assert execute([*words["detect"], "--alpha", alpha]) == 2
    assert "is out of reach: the smallest is 1e-06" in capfd.readouterr().err


@pytest.mark.parametrize("seed", ["-3", "-1", str(2**63)])
@pytest.mark.parametrize("command", ["run", "calibrate"])
def test_seeds_that_are_none(
    command: str,
    seed: str,
    words: dict[str, list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in ("okr.loaders.load", "okr.jobs.loading.load"):
        monkeypatch.setattr(place, interrupted)  # which would be seen
    assert execute([*words[command], "--seed", seed]) == 2
    line = capfd.readouterr().err
    assert "seed" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "deep").exists()
