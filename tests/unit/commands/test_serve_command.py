"""``okr serve`` before vLLM runs: what it tells vLLM, and what it refuses on one line."""

import base64
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from okr.cli import execute
from okr.engines.vllm import Configuration, serving
from okr.routing import NAMED, Key

SECRET = bytes(range(32))


@pytest.fixture
def key(tmp_path: Path) -> str:
    Key(SECRET).save(tmp_path / "key.json")
    return str(tmp_path / "key.json")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """What serving takes for a model: a folder with a configuration."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM were installed."""
    monkeypatch.setattr(serving, "is_installed", lambda: True)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM were not installed."""
    monkeypatch.setattr(serving, "is_installed", lambda: False)


def refused(words: list[str], capfd: pytest.CaptureFixture) -> str:
    """The one line of a command that must fail."""
    assert execute(["serve", *words]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("okr: ")
    assert printed.err.count("\n") == 1
    return str(printed.err)


def line(words: list[str], capfd: pytest.CaptureFixture) -> list[str]:
    """vLLM's command."""
    assert execute(["serve", *words, "--dry-run"]) == 0
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1
    return shlex.split(printed.out)


def told(words: list[str]) -> Configuration:
    found = Configuration.of(json.loads(words[words.index("--additional-config") + 1]))
    assert found is not None
    return found


@pytest.mark.usefixtures("installed")
def test_the_command_names_the_key_file_and_no_secret(key: str, folder: str, capfd: pytest.CaptureFixture) -> None:
    words = line([folder, "--key", key, "--port", "8001", "--max-model-len=256"], capfd)
    assert words[:3] == [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    assert words[words.index("--model") + 1] == words[words.index("--served-model-name") + 1] == folder
    assert words[words.index("--middleware") + 1] == "okr.engines.vllm.http.KeyedResponses"
    assert words[words.index("--worker-extension-cls") + 1] == "okr.engines.vllm.worker.WorkerMethods"
    assert words[-3:] == ["--port", "8001", "--max-model-len=256"]
    quiet = NAMED["quiet"]
    assert told(words) == Configuration(key_file=key, **vars(quiet))
    forms = (SECRET.hex(), base64.b64encode(SECRET).decode(), base64.urlsafe_b64encode(SECRET).decode())
    assert not [word for word in words for form in forms if form in word]


@pytest.mark.usefixtures("installed")
def test_setting_key_and_traces_reach_vllm(
    key: str, folder: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(line([folder], capfd)) == Configuration()
    assert told(line([folder, "--setting", "loud"], capfd)) == Configuration(**vars(NAMED["loud"]))
    numbers = ["--epsilon", "0.5", "--zone", "max", "--strength", "inf", "--no-routed-experts"]
    assert told(line([folder, "--key", "key.json", *numbers], capfd)) == Configuration(
        key_file=key, epsilon=0.5, zone="max", strength=float("inf"), record=False
    )
    assert told(line([folder, "--traces", "new/traces"], capfd)).journal == str(tmp_path / "new" / "traces")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("installed")
def test_vllm_records_on_a_card_and_the_plugin_elsewhere(
    folder: str, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for on_cpu, words, recorded in ((True, [], False), (False, [], True), (False, ["--no-routed-experts"], False)):
        monkeypatch.setattr(serving, "_on_cpu", lambda on_cpu=on_cpu: on_cpu)
        assert ("--enable-return-routed-experts" in line([folder, *words], capfd)) is recorded


@pytest.mark.usefixtures("installed")
def test_an_embedded_model_is_served_from_a_checkpoint_in_float32(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written once; its output embedding is in it, since vLLM's class ties none."""
    from safetensors import safe_open

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = line(["tiny"], capfd)
    written = Path(words[words.index("--model") + 1])
    assert written.is_relative_to(tmp_path / "cache")
    assert words[words.index("--served-model-name") + 1] == "tiny"
    assert words[words.index("--dtype") + 1] == "float32"
    assert json.loads((written / "config.json").read_text())["tie_word_embeddings"] is False
    with safe_open(written / "model.safetensors", "np") as weights:
        assert "lm_head.weight" in weights.keys()  # noqa: SIM118 - it is no dictionary
    before = (written / "model.safetensors").stat().st_mtime_ns
    words = line(["tiny", "--dtype", "bfloat16", "--served-model-name", "mine"], capfd)
    assert words.count("--dtype") == words.count("--served-model-name") == 1
    assert (written / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]


@pytest.mark.usefixtures("installed")
def test_vllm_takes_the_place_of_this_process(
    key: str, folder: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setenv("OKR_TEST_VARIABLE", "kept")
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    assert execute(["serve", folder, "--key", key, "--traces", str(tmp_path / "new" / "traces")]) == 0
    assert list((tmp_path / "new" / "traces").iterdir()) == []
    [(program, words, environment)] = started
    assert program == words[0] == sys.executable
    assert told(words).key_file == key
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["OKR_TEST_VARIABLE"] == "kept"
    assert base64.b64encode(SECRET).decode() not in str(started)


@pytest.mark.usefixtures("not_installed")
def test_without_vllm_it_says_how_to_install_it_and_leaves_nothing_behind(
    key: str, folder: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    traces = tmp_path / "traces"
    for words in ([folder], [folder, "--key", key, "--dry-run"], ["tiny"], ["tiny", "--traces", str(traces)]):
        said = refused(words, capfd)
        assert "vLLM is not installed here: pip install vllm" in said
    assert not traces.exists()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("source", ["env:OKR_TEST_KEY", "fd:0", "env:{}"])
def test_a_key_that_workers_could_not_read_again_is_refused(
    source: str, key: str, folder: str, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKR_TEST_KEY", Path(key).read_text())
    assert "so it must be a file (okr keygen)" in refused([folder, "--key", source], capfd)


@pytest.mark.usefixtures("installed")
def test_a_key_file_that_is_none_is_refused(
    key: str, folder: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "damaged.json").write_text("{}")
    for name, reason in (
        ("none.json", "cannot read key file"),
        ("", "cannot read key file"),
        ("damaged.json", "damaged"),
    ):
        assert reason in refused([folder, "--key", str(tmp_path / name)], capfd)
    Path(key).chmod(0o644)
    assert "key.json" in refused([folder, "--key", key], capfd)


@pytest.mark.usefixtures("installed")
def test_a_key_in_place_of_its_file_is_not_shown(key: str, folder: str, capfd: pytest.CaptureFixture) -> None:
    content = Path(key).read_text()
    said = refused([folder, "--key", content], capfd)
    assert "the content of a key file was given where its name belongs" in said
    assert json.loads(content)["secret"] not in said


@pytest.mark.usefixtures("installed")
def test_a_folder_of_traces_that_cannot_be_written(
    folder: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/traces", "a" * 300):
        said = refused([folder, "--traces", str(tmp_path / name)], capfd)
        assert f"--traces {tmp_path / name}: cannot be written: " in said
    assert "leave --no-routed-experts out" in refused([folder, "--traces", "t", "--no-routed-experts"], capfd)

    def denied(*given: Any, **named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", denied)
    said = refused([folder, "--traces", str(tmp_path / "traces")], capfd)
    assert said.endswith("cannot be written: Permission denied\n")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "words",
    [["--additional-config", "{}"], ["--additional-config={}"], ["--additional_config", "{}"], ["--additional-conf={}"],
     ["--additional-config.okr.record", "false"], ["--worker_extension_cls=a.B"], ["--worker-extension-cls", "a.B"]],
)  # fmt: skip
def test_what_it_sets_itself_cannot_be_replaced(words: list[str], folder: str, capfd: pytest.CaptureFixture) -> None:
    """vLLM would take the last one, in any spelling, and serve without the key."""
    assert "itself: leave it out" in refused([folder, *words], capfd)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny-switch"], "encoder-decoder"),
        (["deepseek-moe-random"], "random weights and no files"),
        (["./no-such-folder"], "no such folder"),
        (["tiny", "--setting", "silent"], "--setting must be quiet or loud"),
        (["tiny", "--epsilon", "nan"], "--epsilon"),
        (["tiny", "--strength", "0"], "--strength"),
        (["tiny", "--zone", "middle"], "--zone"),
        ([], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert said in refused(words, capfd)


@pytest.mark.usefixtures("installed")
def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME to a writable folder" in refused(["tiny"], capfd)
