"""Processes that share a run: their shares, the wait for the others, what one of them says for all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.errors import InvalidConfig, ProcessFailed
from okr.experiment.config import resolve
from okr.experiment.sampling import Subject
from okr.experiment.tasks import tasks_of
from okr.jobs import loading, processes
from okr.jobs.processes import Processes
from okr.routing import Key


@given(st.integers(1, 40), st.integers(1, 9))
def test_tasks_hold_every_sample_once_and_the_groups_of_a_batch_together(samples: int, batch: int) -> None:
    config = resolve("tiny", {"samples": samples, "batch_size": batch}, environment={}).config
    *batches, loss = tasks_of(Subject(None, Key(bytes(32)), config), Path(), ["a prompt"] * samples)
    for group in ("watermarked", "control"):
        assert sum(task.steps for task in batches if task.bar == group) == samples
    assert {task.name for task in batches} == {
        f"batch-{index:04d}-{group}" for index in range(-(-samples // batch)) for group in ("watermarked", "control")
    }
    assert all(task.share == int(task.name.split("-")[1]) for task in batches)
    assert (loss.name, loss.steps) == ("held-out-loss", 2 * config.quality_passages)


def answering(monkeypatch: pytest.MonkeyPatch, message: str | None) -> None:
    """Another process that ends every step with ``message`` (None: well)."""

    def gather(told: list, own: str | None) -> None:
        told[:] = [own, message]

    monkeypatch.setattr(processes.dist, "all_gather_object", gather)


def test_a_step_that_fails_anywhere_fails_everywhere_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = (Processes(rank, 2, rank, 2) for rank in range(2))
    answering(monkeypatch, None)
    for one in (main, other):
        with one.together():
            pass
    answering(monkeypatch, "no such model")
    with pytest.raises(ProcessFailed, match=r"^process 1 of 2: no such model$"), main.together():
        pass
    with pytest.raises(InvalidConfig, match=r"^mine$"), main.together():
        raise InvalidConfig("mine")
    with pytest.raises(SystemExit) as left, other.together():
        raise InvalidConfig("the main process tells it")
    assert left.value.code == 2
    with pytest.raises(ZeroDivisionError), other.together():
        _ = 1 / 0  # a bug keeps its traceback


def test_a_process_that_is_gone_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: object) -> None:
        raise RuntimeError("Connection closed by peer [10.0.0.7]:47332")

    monkeypatch.setattr(processes.dist, "all_gather_object", closed)
    monkeypatch.setattr(processes.dist, "broadcast_object_list", closed)
    lost = r"^process 1 of 3 lost another process of this run: .*--resume"
    with pytest.raises(ProcessFailed, match=lost), Processes(1, 3).together():
        pass
    with pytest.raises(ProcessFailed, match=lost):
        Processes(1, 3).from_main(None)


CARDS = dict.fromkeys(range(4), 80 * 2**30) | {"cpu": 400 * 2**30}


@pytest.mark.parametrize(
    ("device", "place", "cap", "expected"),
    [
        ("auto", (0, 4), None, ("auto", {0: 80, "cpu": 100})),
        ("auto", (3, 4), "70GiB", ("auto", {3: 70, "cpu": 100})),
        ("auto", (1, 2), "70GiB", ("auto", {2: 70, 3: 80, "cpu": 200})),
        ("cuda", (2, 4), None, ("cuda:2", None)),
        ("cpu", (2, 4), None, (None, None)),
        ("auto", (0, 5), None, "5 processes on a machine with 4 CUDA cards"),
        ("cuda:1", (0, 2), None, "names one card for every process"),
    ],
)
def test_processes_of_a_machine_divide_its_cards(
    device: str, place: tuple, cap: str | None, expected: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict] = []
    current: list[int] = []
    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading.torch.cuda, "set_device", current.append)
    monkeypatch.setattr(loading, "get_max_memory", lambda: CARDS)
    monkeypatch.setattr(loading, "load", lambda model, **options: asked.append(options))
    config = resolve("tiny", {"device": device, "max_memory": cap}, environment={}).config
    own = Processes(*place, *place)
    if isinstance(expected, str):
        with pytest.raises(InvalidConfig, match=expected):
            loading.load_placed(config, own)
        return
    loading.load_placed(config, own)
    device_map, gib = expected
    assert asked[0]["device_map"] == device_map
    assert asked[0]["max_memory"] == (gib and {where: amount * 2**30 for where, amount in gib.items()})
    assert current == ([] if device == "cpu" else [min(card for card in gib or {2: 0} if card != "cpu")])
