"""Full disks: the system itself refuses the writes (a limit on the size of files), and nothing is left half written.

The limit holds for this process only while a test asks for it; where it is exceeded a write fails with EFBIG.
"""

import logging
import os
import resource
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import okr.experiment.tasks as work
from okr import files
from okr.cli import execute
from okr.errors import InvalidConfig, InvalidTrace
from okr.experiment.folder import RunFolder
from okr.experiment.held_out_loss import Loss
from okr.jobs.folders import write_atomically
from okr.jobs.log import log_to
from okr.jobs.store import Store
from okr.jobs.tasks import Record
from okr.traces import Trace
from okr.tuning.sweep import Calibration

WHY = "File too large"


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(there: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"old")
    for size in (0, 1, 999):
        with room(size), pytest.raises(OSError, match=WHY):
            files.replace(path, bytes(1000))
        assert names(tmp_path) == ["file"] * there
        assert not there or path.read_bytes() == b"old"
    with room(1000):
        files.replace(path, bytes(1000))
    assert names(tmp_path) == ["file"]
    assert path.read_bytes() == bytes(1000)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_nothing(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.replace(tmp_path / "file", b"new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_traces_and_results_have_the_mode_that_the_umask_leaves(umask: int, finished: Path, tmp_path: Path) -> None:
    trace = Trace.load(finished / "traces" / "control-0000.safetensors")
    before = os.umask(umask)
    try:
        trace.save(tmp_path / "trace.safetensors")
        write_atomically(tmp_path / "results.json", "{}")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644 & ~umask}


def test_a_trace_that_finds_no_room(finished: Path, tmp_path: Path) -> None:
    trace = Trace.load(finished / "traces" / "control-0000.safetensors")
    with room(100), pytest.raises(InvalidTrace, match=f"cannot write trace .*t.safetensors: {WHY}"):
        trace.save(tmp_path / "t.safetensors")
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 500])
def test_a_record_that_finds_no_room_is_not_there_at_all(size: int, tmp_path: Path) -> None:
    with Store[Loss](tmp_path / "tasks", Loss).locked() as store:
        store.begin({})
        loss = Loss(tokens=1, keyed=[0.5] * 100, unkeyed=[0.25] * 100, seconds=1.0)
        record = Record[Loss](name="loss", status="done", seconds=1.0, result=loss)
        with room(size), pytest.raises(InvalidConfig, match=rf"cannot write .*loss\.json: {WHY}"):
            store.keep(record)
        assert names(store.folder) == [".lock-0", "plan.json"]


def test_a_log_that_finds_no_room_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with room(10), log_to(tmp_path / "log") as log:
        log.open()
        logging.getLogger("okr").info("more than ten characters")
    assert capfd.readouterr().err == ""


def started(model: Path, out: Path, *more: str) -> list[str]:
    sizes = ("--samples", "4", "--max-length", "6", "--batch-size", "2")
    return ["run", "tiny", "--model", str(model), "--output-dir", str(out), *sizes, *more]


def test_a_run_on_a_full_disk_names_the_file_and_the_command_that_goes_on(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batch, calls, out = work.make_batch, [], tmp_path / "out"

    def fuller(*arguments: object) -> dict:
        calls.append(1)
        if len(calls) < 3:
            return make_batch(*arguments)
        with room(100):
            return make_batch(*arguments)

    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "2")
    words = started(deepseek_folder, out)
    monkeypatch.setattr("sys.argv", ["okr", *words])
    with monkeypatch.context() as patch:
        patch.setattr(work, "make_batch", fuller)
        assert execute(words) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"okr: cannot write trace {out}/traces/watermarked-0002.safetensors: {WHY}; ")
    assert sorted(path.name for path in (out / "traces").iterdir()) == [
        f"{group}-000{sample}.safetensors" for group in ("control", "watermarked") for sample in (0, 1)
    ]
    again = shlex.split(line.partition("to continue: okr ")[2])
    assert again == [*words, "--resume"]
    made = []
    monkeypatch.setattr(work, "make_batch", lambda *arguments: made.append(1) or make_batch(*arguments))
    assert execute(again) == 0
    assert len(made) == 2, "the two finished batches are not made again"
    assert not [name for name in names(out) if Path(name).name.startswith(".")]


def test_a_run_that_finds_no_room_at_all_leaves_nothing_and_promises_nothing(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = RunFolder.begin

    def without_room(*arguments: object) -> dict:
        with room(0):  # here alone: what is said goes to a file as well
            return begin(*arguments)

    monkeypatch.setattr(RunFolder, "begin", without_room)
    assert execute(started(deepseek_folder, tmp_path / "out")) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert WHY in line
    assert "--resume" not in line
    assert not (tmp_path / "out").exists()


def test_a_calibration_on_a_full_disk_names_the_command_that_goes_on(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["calibrate", str(deepseek_folder), "--output-dir", str(tmp_path / "cal"), "--setting", "max:1"]
    words += ["--samples", "2", "--keys", "1", "--length", "8", "--trace-tokens", "8", "--passages", "2"]
    monkeypatch.setattr("sys.argv", ["okr", *words])
    replace: Callable[[Path, bytes], None] = files.replace

    def no_picture(path: Path, content: bytes) -> None:
        with room(10 if path.suffix == ".svg" else 1 << 20):
            replace(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", no_picture)
        assert execute(words) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert f"calibration.svg: {WHY}; " in line
    assert names(tmp_path / "cal") == ["calibration.json", "tasks", "tasks/000-max-1-inf.json", "tasks/plan.json"]
    assert len(Calibration.load(tmp_path / "cal" / "calibration.json").measured) == 1
    assert execute(shlex.split(line.partition("to continue: okr ")[2])) in (0, 1)
    assert names(tmp_path / "cal")[:2] == ["calibration.json", "calibration.svg"]
