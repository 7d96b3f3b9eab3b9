"""Processes that share a run: their shares, the wait for the others, what one of them says for all."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.errors import InvalidConfig, ProcessFailed
from okr.experiment.config import resolve
from okr.experiment.tasks import QUALITY, share, tasks
from okr.jobs import loading, processes
from okr.jobs.merging import LONGEST, PATIENCE, Parts, merge_leftover, part_path
from okr.jobs.processes import Processes
from okr.jobs.store import Journal


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12), st.data())
def test_shares_are_disjoint_and_whole(samples: int, batch: int, count: int, data: st.DataObject) -> None:
    config = resolve("tiny", {"samples": samples, "batch_size": batch}, environment={}).config
    everything = tasks(config)
    left = sorted(data.draw(st.sets(st.sampled_from(everything))), key=everything.index)
    shares = [share(left, rank, count) for rank in range(count)]
    assert sorted(task for part in shares for task in part) == sorted(left)
    sizes = [len({index for index, _ in part}) for part in shares]
    assert max(sizes) - min(sizes) <= 1
    owner = {index: rank for rank, part in enumerate(shares) for index, _ in part}
    assert all(owner[index] == rank for rank, part in enumerate(shares) for index, _ in part)
    assert everything[-1][1] == QUALITY


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[Callable[[], None]] = []

    def pause(self, seconds: float) -> None:
        self.now += 60.0
        if self.events:
            self.events.pop(0)()


def test_the_wait_ends_when_everything_is_there_and_not_before(tmp_path: Path) -> None:
    clock, missing, heard = Clock(), {0, 1, 2}, []
    with Journal(tmp_path / "journal.jsonl") as journal, Journal(part_path(tmp_path, 1)) as other:
        journal.begin({"kind": "header"})
        parts = Parts(tmp_path, journal, 3)
        nothing, begin = (lambda: None), lambda: other.begin({"kind": "process"})
        adds = [lambda number=number: other.add({"kind": "quality", "number": number}) for number in range(3)]
        slow = [nothing] * int(PATIENCE / 60)  # as long as patience lasts between two of them
        clock.events = [begin, *slow[1:], adds[0], *slow, adds[1], *slow, adds[2]]

        def take(record: dict) -> None:
            heard.append(record["number"])
            missing.discard(record["number"])

        parts.wait(missing, take, clock=lambda: clock.now, pause=clock.pause)
        assert heard == [0, 1, 2]
        assert [record["number"] for record in journal.records] == [0, 1, 2]
        parts.remove()
    assert not part_path(tmp_path, 1).exists()


@pytest.mark.parametrize(("longest", "limit"), [(1.0, PATIENCE), (PATIENCE, LONGEST * PATIENCE)])
def test_a_wait_without_a_word_ends_with_advice(longest: float, limit: float, tmp_path: Path) -> None:
    """The limit grows with the batches: what takes an hour may be silent for hours."""
    clock = Clock()
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.begin({"kind": "header"})
        journal.add({"kind": "batch", "seconds": {"generate": longest / 2, "verify": longest / 2}})
        with pytest.raises(ProcessFailed, match=rf"^1 parts .* for {limit / 60:.0f} minutes: .* add --resume$"):
            Parts(tmp_path, journal, 2).wait({1}, print, clock=lambda: clock.now, pause=clock.pause)
    assert clock.now == pytest.approx(limit, abs=61)


def test_a_torn_line_of_another_process_is_read_once_it_is_whole(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.begin({"kind": "header"})
        parts = Parts(tmp_path, journal, 2)
        assert parts.collect() == []
        with part_path(tmp_path, 1).open("ab", buffering=0) as file:
            for piece in (
                b'{"kind": "pro',
                b'cess"}\n{"kind": "qua',
                b'lity", "n": 1}\n{"kin',
                b'd": "quality", "n": 2}\n',
            ):
                file.write(piece)
                parts.collect()
        assert [record["n"] for record in journal.records] == [1, 2]


def test_what_is_still_being_written_is_not_taken_over(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal, Journal(part_path(tmp_path, 7)) as other:
        journal.begin({"kind": "header"})
        other.begin({"kind": "process"})
        other.add({"kind": "quality"})
        with pytest.raises(InvalidConfig, match="another run is writing"):
            merge_leftover(tmp_path, journal)
        assert journal.records == []
    with Journal(tmp_path / "journal.jsonl") as journal:
        merge_leftover(tmp_path, journal)
        assert journal.records == [{"kind": "quality"}]
    assert not part_path(tmp_path, 7).exists()


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
