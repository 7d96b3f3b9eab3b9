"""Suites that are killed at any point and resumed end with the results of suites that never were."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from okr.experiment.config import Resolved
from okr.suites.options import SUITES, SuiteOptions
from okr.suites.runner import SuiteResults

DRIVER = Path(__file__).with_name("killed_suites.py")


def outcome(results: SuiteResults) -> dict[str, tuple]:
    """What must not depend on how often a run was stopped."""
    return {cell.name: (cell.status, cell.reason, cell.figures) for cell in results.cells}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_every_write_then_resumed_by_two_processes(
    finished_run: Resolved, small: SuiteOptions, warm: Path, tmp_path: Path
) -> None:
    for name in ("whole", "killed"):
        shutil.copytree(finished_run.config.output_dir, tmp_path / name)
    values = finished_run.config.model_dump()
    flags = {name: value for name, value in values.items() if finished_run.sources[name] == "flag"}
    done = subprocess.run(
        [warm / "python", str(DRIVER), json.dumps(flags), small.model_dump_json()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["kills"]["1"] > 80
    assert said["kills"]["2"] > 1
    assert set(said["where"]) >= {"plan.json", "texts", *SUITES}, "a suite was never killed"
    assert set(said["by"]) == {"0", "1"}, "both processes did some of the work"
    whole, killed = (SuiteResults.load(tmp_path / name / "suites.json") for name in ("whole", "killed"))
    assert outcome(killed) == outcome(whole)
    assert len(whole.cells) > 80
