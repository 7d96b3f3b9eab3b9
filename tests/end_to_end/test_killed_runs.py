"""A run that is killed at any point and resumed ends with the results of one that never was."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from small_runs import SMALL

DRIVER = Path(__file__).with_name("killed_runs.py")


def comparable(folder: Path) -> dict:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: value for name, value in results.items() if name != "timings"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("where", "least"), [("torn", 6), ("files", 5)])
def test_sigkill_at_every_write_then_resume(
    where: str, least: int, deepseek_folder: Path, key_file: Path, warm: Path, tmp_path: Path
) -> None:
    flags = SMALL | {"model": str(deepseek_folder), "key": str(key_file), "output_dir": "out"}
    done = subprocess.run(
        [warm / "python", str(DRIVER), where, json.dumps(flags)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(DRIVER.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kills = json.loads(done.stdout)["kills"]
    assert kills >= least, "the run was killed too rarely to mean anything"
    assert comparable(tmp_path / "killed" / "out") == comparable(tmp_path / "whole" / "out")
    for path in (tmp_path / "whole" / "out" / "traces").iterdir():
        assert (tmp_path / "killed" / "out" / "traces" / path.name).read_bytes() == path.read_bytes()
