"""Suites in the folder of a run: on a full disk, without a judge, with a paraphraser that fails."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from okr.cli import execute
from okr.errors import InvalidConfig
from okr.experiment.config import Resolved
from okr.jobs import store, working
from okr.jobs.folders import write_atomically
from okr.jobs.tasks import NotAvailable
from okr.suites import attacks, runner
from okr.suites.options import SUITES, SuiteOptions
from okr.suites.report import write_reports
from okr.suites.runner import SuiteResults, run_suites

FULL = ("baselines/found/okr", "quality/loss/drama", "attacks/text/truncated 0.5/kgw louder", "texts/synthid/001")
CANARIES = {"quality/canaries/none", "quality/canaries/okr"}  # for embedded models only


@pytest.fixture
def a_run(finished_run: Resolved, tmp_path: Path) -> Resolved:
    """A finished run in a folder of the test's own."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run.config.output_dir, folder)
    return replace(finished_run, config=finished_run.config.model_copy(update={"output_dir": str(folder)}))


def outcome(results: SuiteResults) -> dict[str, tuple]:
    """What must not depend on how often a run was stopped."""
    return {cell.name: (cell.status, cell.reason, cell.figures) for cell in results.cells}


def full_disk(names: set[str]) -> Callable[[Path, str], None]:
    """Writes files, save those of the cells ``names``."""

    def writing(path: Path, text: str) -> None:
        if any(path.as_posix().endswith(f"/suites/{name}.json") for name in names):
            raise InvalidConfig(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")
        write_atomically(path, text)

    return writing


def broken_paraphraser(name: str) -> Callable[[str, int], str]:
    def rewrite(text: str, seed: int) -> str:
        raise NotAvailable(f"the paraphraser {name} wrote nothing")

    return rewrite


def test_faults_cost_their_cells_alone_and_are_made_good(
    a_run: Resolved, small: SuiteOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in every suite, a judge that is not there, a paraphraser that fails: all in one run."""
    full = set(FULL)
    monkeypatch.setattr(store, "write_atomically", full_disk(full))
    monkeypatch.setattr(attacks, "_paraphraser", broken_paraphraser)
    options = small.model_copy(update={"judge": str(tmp_path / "nobody"), "paraphraser": "broken"})
    found = outcome(run_suites(a_run, options, SUITES))
    lost = {name for name, (status, _, _) in found.items() if status != "done"}
    judges = {f"quality/judge/{method}" for method in ("none", "okr", "kgw", "synthid")}
    paraphrases = {f"attacks/text/paraphrased/{method}" for method in ("okr louder", "kgw louder", "synthid")}
    needy = {name for name in lost if found[name][1].startswith("needs texts/synthid/001")}
    assert lost == full | judges | paraphrases | needy | CANARIES
    assert "tests/synthid/001" in needy
    assert all(name.endswith("synthid") or "/synthid/" in name for name in needy)
    assert all("No space left on device" in found[name][1] for name in full)
    assert all("nobody" in found[name][1] for name in judges)
    assert all("wrote nothing" in found[name][1] for name in paraphrases - needy)
    folder = Path(a_run.config.output_dir)
    write_reports(folder)
    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for name in lost:
        assert f"<td>{name}</td>" in page
        assert name in text
    full.clear()
    monkeypatch.setattr(attacks, "_paraphraser", lambda name: lambda text, seed: text[::-1])
    again = options.model_copy(update={"judge": a_run.config.model})
    made = []
    do = working._done
    monkeypatch.setattr(working, "_done", lambda task, *rest: made.append(task.name) or do(task, *rest))
    made_good = outcome(run_suites(a_run, again, SUITES))
    assert {name for name, (status, _, _) in made_good.items() if status != "done"} == CANARIES
    assert set(made) == lost
    same = set(found) - lost - {name for name in found if "synthid" in name}
    assert {name: found[name] for name in same} == {name: made_good[name] for name in same}


def test_suites_json_that_cannot_be_written_is_one_line_and_resumed(
    a_run: Resolved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def writing(path: Path, text: str) -> None:
        if path.name == "suites.json":
            raise InvalidConfig(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")
        write_atomically(path, text)

    monkeypatch.setattr(runner, "PLANS", {"quality": lambda bench, ledger: []})
    config = a_run.config
    command = ["run", "--model", config.model, "--output-dir", config.output_dir, "--suite", "quality", "--resume"]
    for name in ("samples", "max_length", "batch_size", "decoys", "seed", "setting"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    command += ["--config", str(_rest(a_run))]
    with monkeypatch.context() as patched:
        patched.setattr(runner, "write_atomically", writing)
        assert execute(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device" in error
    assert execute(command) == 0
    assert (Path(config.output_dir) / "suites.json").exists()


def _rest(a_run: Resolved) -> Path:
    """The settings of the run that have no flag, as a file."""
    path = Path(a_run.config.output_dir).with_name("rest.json")
    values = {name: getattr(a_run.config, name) for name in ("alpha", "quality_passages", "threads")}
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_other_options_are_refused(a_run: Resolved, small: SuiteOptions) -> None:
    folder = Path(a_run.config.output_dir) / "suites"
    folder.mkdir()
    plan = {"options": small.model_dump(mode="json") | {"tokens": 13}, "seed": 1, "suites": ["quality"]}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(InvalidConfig, match=r"tokens \(was 13, now 12\)"):
        run_suites(a_run, small, ["quality"])
    (folder / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(InvalidConfig, match="damaged"):
        run_suites(a_run, small, ["quality"])
