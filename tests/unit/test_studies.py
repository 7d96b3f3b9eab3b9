"""The tasks of a study: each done once however often it is stopped, and never mixed with those of another plan."""

import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripts import script

PLAN = {"model": "small", "level": 0.01}
LLAMA_CPP = pytest.mark.skipif(
    not (find_spec("llama_cpp") and find_spec("gguf")), reason="needs llama.cpp: pip install llama-cpp-python gguf"
)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def common() -> ModuleType:
    return script("studies/common")


def tasks_of(
    figures: list[Any], done: list[int], killed_at: int | None = None
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Tasks that leave ``figures`` and note their numbers in ``done``; one of them may end the study."""

    def task(number: int) -> dict[str, Any]:
        if number == killed_at:
            raise Killed
        done.append(number)
        return {"figure": figures[number]}

    return {f"group {number % 2}/{number}": lambda number=number: task(number) for number in range(len(figures))}


@given(
    figures=st.lists(st.one_of(st.floats(allow_nan=False), st.text(), st.lists(st.integers())), min_size=1, max_size=5),
    stops=st.lists(st.integers(0, 4), max_size=3),
)
def test_a_study_stopped_anywhere_does_every_task_once(
    common: ModuleType, tmp_path_factory: pytest.TempPathFactory, figures: list[Any], stops: list[int]
) -> None:
    out, done = tmp_path_factory.mktemp("study") / "new" / "figures.json", list[int]()
    for stop in stops:
        left = stop in range(len(figures)) and stop not in done
        with pytest.raises(Killed) if left else nullcontext():
            common.worked(out, PLAN, tasks_of(figures, done, killed_at=stop))
    found = common.worked(out, PLAN, tasks_of(figures, done))
    assert sorted(done) == list(range(len(figures)))
    assert list(found.results) == [f"group {number % 2}/{number}" for number in range(len(figures))]
    assert [result["figure"] for result in found.results.values()] == figures


def test_a_study_that_has_grown_does_what_is_new_and_keeps_its_date(
    common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = list[int](), list[int]()
    began = common.worked(tmp_path / "figures.json", PLAN, tasks_of([0.5], first)).machine
    monkeypatch.setattr(common, "machine", lambda: began | {"date": "2125-01-01"})
    found = common.worked(tmp_path / "figures.json", PLAN, tasks_of([0.5, 1.5], later))
    assert (first, later) == ([0], [1])
    assert found.machine == began


@pytest.mark.parametrize(
    ("plan", "library", "changed"),
    [
        (PLAN | {"level": 0.05}, {}, "level (was 0.01, now 0.05)"),
        (PLAN | {"texts": 3}, {}, "texts (was None, now 3)"),
        ({"model": "small"}, {}, "level (was 0.01, now None)"),
        (PLAN, {"torch": "0.0"}, "torch (was "),
    ],
)
def test_another_plan_is_refused_in_one_line(
    common: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: dict[str, Any],
    library: dict[str, str],
    changed: str,
) -> None:
    out, done = tmp_path / "figures.json", list[int]()
    began = common.worked(out, PLAN, tasks_of([0.5], done)).machine
    monkeypatch.setattr(common, "machine", lambda: began | library)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(SystemExit) as refusal:
        common.worked(out, plan, tasks_of([0.5, 1.5], done))
    assert changed in str(refusal.value.code)
    assert "\n" not in str(refusal.value.code)
    assert done == [0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_a_study_without_a_file_leaves_nothing(
    common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = common.worked(None, PLAN, tasks_of([0.5], []))
    assert found.results == {"group 0/0": {"figure": 0.5}}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attribution", ["--out", "{}"]),
        pytest.param("baked_llama_cpp", ["--json", "{}"], marks=LLAMA_CPP),
        ("baked_families", ["--json", "{}"]),
        ("beside_synthid", ["--json", "{}"]),
        ("cost_and_evidence", ["tiny-switch", "--out", "{}"]),
        ("deployed_keys", ["--json", "{}"]),
        ("edit_robustness", ["--out", "{}"]),
        ("false_positives", ["trace", "--out", "{}"]),
        ("key_recovery", ["recovery", "--out", "{}"]),
        ("quantised", ["--out", "{}"]),
        ("settings_table", ["tiny-switch", "--out", "{}"]),
        ("short_traces", ["--json", "{}"]),
        ("text_power", ["tiny-switch", "--out", "{}"]),
    ],
)
def test_every_study_comes_as_far_as_its_tasks(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plan that is plain JSON, and tasks whose names can be files."""
    study, asked = script(f"studies/{name}"), []
    monkeypatch.setattr(study, "worked", lambda *given: asked.append(given))
    monkeypatch.setattr("sys.argv", [name, *(word.format(tmp_path / "out.json") for word in words)])
    threads = torch.get_num_threads()
    try:
        study.main()
    finally:
        torch.set_num_threads(threads)
    ((out, plan, tasks),) = asked
    assert out == tmp_path / "out.json"
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan
    assert len(tasks) > 1
    assert all(Path(task).parts and ".." not in Path(task).parts and not Path(task).is_absolute() for task in tasks)
