"""What several processes share ends as with one that was alone, whoever dies on the way."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from small_runs import SMALL, launched

from okr.cli import execute

DRIVER = Path(__file__).with_name("shared_runs.py")


def samples(folder: Path) -> dict:
    """All of results.json but the clock, the state of the source tree and the folder's name."""
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    document["config"].pop("output_dir")
    return {name: value for name, value in document.items() if name not in ("timings", "environment")}


def test_two_processes_make_what_one_makes(
    deepseek_folder: Path, key_file: Path, finished: Path, warm: Path, tmp_path: Path
) -> None:
    """Under accelerate's launcher; the main process alone speaks, and both have done a share."""
    out, config = tmp_path / "out", tmp_path / "config.json"
    config.write_text(json.dumps(SMALL | {"model": str(deepseek_folder), "key": str(key_file)}))
    done = launched(warm / "python", 2, "-m", "okr.run", "--config", str(config), "--output-dir", str(out), "--json")
    assert done.returncode == 0, done.stderr
    whole = samples(finished)
    alone = whole | {"config_sources": samples(out)["config_sources"]}  # a file here, flags there
    assert samples(out) == alone
    for trace in (finished / "traces").iterdir():
        assert (out / "traces" / trace.name).read_bytes() == trace.read_bytes()
    assert json.loads(done.stdout)["total_samples"] == SMALL["samples"]
    records = [json.loads(path.read_text()) for path in (out / "tasks").glob("*.json") if path.name != "plan.json"]
    assert {record["process"] for record in records} == {0, 1}
    assert len(records) == 7
    assert not list((out / "tasks").glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_processes_lose_nothing_that_was_finished(
    deepseek_folder: Path, key_file: Path, finished: Path, warm: Path, tmp_path: Path
) -> None:
    """Three processes, two of them killed in the middle of a batch; two go on, one is killed; one ends it."""
    flags = SMALL | {"model": str(deepseek_folder), "key": str(key_file), "output_dir": str(tmp_path / "out")}
    done = subprocess.run(
        [warm / "python", str(DRIVER), json.dumps(flags)],
        env=os.environ | {"PYTHONPATH": str(DRIVER.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    every_batch = [[index, group] for index in range(3) for group in ("control", "watermarked")]
    assert sorted(told["notes"]) == every_batch, "nothing that was finished is made again"
    assert len(told["said"]) == 1, "the main process that outlived the others; the one that was killed says nothing"
    assert re.match(r"ProcessFailed: 4 parts of the run are missing .* add --resume$", told["said"][0])
    assert samples(tmp_path / "out") == samples(finished)
    assert not list((tmp_path / "out" / "tasks").glob(".*"))


def test_two_processes_share_the_keys(
    deepseek_folder: Path, key_file: Path, warm: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Under accelerate launch: the verdict of one process, said once; its exit code is the launcher's."""
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that a single man")
    words = ["detect", str(deepseek_folder), str(text), "--key", str(key_file), "--rows", "3", "--json"]
    words += ["--epsilon", "inf", "--zone", "boundary", "--strength", "2", "--decoys", "19", "--alpha", "0.99"]
    assert execute(words) == 0
    alone = json.loads(capfd.readouterr().out)
    done = launched(warm / "python", 2, "-m", "okr.cli", *words)
    assert done.returncode == 0, done.stderr
    (alone,), (together,) = alone["files"], json.loads(done.stdout)["files"]
    assert together.pop("z") == pytest.approx(alone.pop("z"), abs=1e-4)
    assert {n: v for n, v in together.items() if isinstance(v, int | str)} == {
        n: v for n, v in alone.items() if isinstance(v, int | str)
    }


def test_two_processes_measure_the_settings_that_one_measures(
    deepseek_folder: Path, warm: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Under accelerate launch; the main process alone speaks, and each has measured a setting."""
    words = [
        "--samples",
        "2",
        "--keys",
        "2",
        "--length",
        "8",
        "--passages",
        "2",
        "--trace-tokens",
        "8",
        "--dtype",
        "float32",
        "--dtype",
        "bfloat16",
    ]
    words = ["calibrate", str(deepseek_folder), "--setting", "boundary:1", "--setting", "max:2:1.5", *words]
    done = launched(warm / "python", 2, "-m", "okr.cli", *words, "--output-dir", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert execute([*words, "--output-dir", str(tmp_path / "one")]) == 0
    assert done.stdout.replace("/two\n", "/one\n") == capfd.readouterr().out
    written = [(tmp_path / name / "calibration.json").read_text() for name in ("one", "two")]
    assert written[0] == written[1]
    for tasks in (tmp_path / "two" / "tasks", tmp_path / "two" / "tasks" / "bfloat16"):
        records = [json.loads(path.read_text()) for path in tasks.glob("0*.json")]
        assert {record["process"] for record in records} == {0, 1}
