"""Working through tasks: each once, whoever dies, however many share the work."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from okr.errors import InvalidConfig, OKRError, ProcessFailed
from okr.jobs import store as stores
from okr.jobs.processes import Processes
from okr.jobs.store import Store
from okr.jobs.tasks import NotAvailable, Task
from okr.jobs.working import work


class Sum(BaseModel):
    """What a task leaves: a number that depends on what earlier tasks left."""

    value: int


class Heard:
    """Keeps the progress it hears."""

    def __init__(self) -> None:
        self.weight, self.done, self.bars = 0.0, 0.0, dict[str, list[int]]()

    def stage(self, text: str) -> None:
        pass

    def expect(self, weight: float) -> None:
        self.weight = weight

    def total(self, bar: str, steps: int) -> None:
        self.bars[bar] = [0, steps]

    def advance(self, bar: str, steps: int, weight: float = 0.0) -> None:
        self.bars[bar][0] += steps
        self.done += weight


class Killed(BaseException):
    """Stands for SIGKILL."""


Needs = list[list[int]]
"""For every task the earlier ones that it reads."""
graphs: st.SearchStrategy[Needs] = (
    st.integers(1, 8)
    .flatmap(
        lambda count: st.tuples(
            *(st.lists(st.integers(0, max(0, n - 1)), max_size=2 if n else 0) for n in range(count))
        )
    )
    .map(list)
)


def tasks_of(needs: Needs, store: Store[Sum], done: list[int] | None = None) -> list[Task[Sum]]:
    """Every task leaves its number and the sum of what it needs; what is done is noted in ``done``."""

    def task(number: int) -> Task[Sum]:
        def value(step: Callable[[int], None]) -> Sum:
            found = number + sum(store.result(f"t/{other}").value for other in needs[number])
            step(1)
            if done is not None:
                done.append(number)
            return Sum(value=found)

        return Task(f"t/{number}", value, bar="tasks", steps=2, weight=1.0 + number)

    return [task(number) for number in range(len(needs))]


def expected(needs: Needs) -> dict[str, int]:
    values: list[int] = []
    for number, others in enumerate(needs):
        values.append(number + sum(values[other] for other in others))
    return {f"t/{number}": value for number, value in enumerate(values)}


def alone(folder: Path, needs: Needs, **options: Any) -> dict[str, int | None]:
    with Store[Sum](folder / "tasks", Sum).locked() as store:
        records = work(tasks_of(needs, store, options.pop("done", None)), store, options.pop("heard", Heard()))
    return {record.name: record.result and record.result.value for record in records}


@given(needs=graphs)
def test_tasks_are_done_in_order_once_and_told(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, heard, done = tmp_path_factory.mktemp("job"), Heard(), list[int]()
    assert alone(folder, needs, heard=heard, done=done) == expected(needs)
    assert done == list(range(len(needs)))
    assert heard.bars == {"tasks": [2 * len(needs)] * 2}
    assert heard.done == pytest.approx(heard.weight)
    again = Heard()
    assert alone(folder, needs, heard=again, done=done) == expected(needs)
    assert len(done) == len(needs), "what is done is not done again"
    assert (again.bars, again.weight) == (heard.bars, 0.0)


class Team:
    """Processes of one start as threads, each of which is killed at one of its writes."""

    def __init__(self, folder: Path, needs: Needs, deadly: list[int]) -> None:
        self.folder, self.needs, self.deadly, self.count = folder, needs, deadly, len(deadly)
        self.barrier, self.told = threading.Barrier(self.count), list[Any]([None])
        self.found: dict[str, int] | None = None
        self.done: list[int] = []
        self.heard = Heard()

    def processes(self, rank: int) -> Processes:
        team = self

        class Threads(Processes):
            @contextmanager
            def together(self) -> Any:
                yield
                team.barrier.wait(20)

            def from_main(self, value: Any) -> Any:
                if self.main:
                    team.told[0] = value
                team.barrier.wait(20)
                return team.told[0]

        return Threads(rank, self.count)

    def member(self, rank: int) -> None:
        store = Store[Sum](self.folder / "tasks", Sum, rank)
        keep, writes = store.keep, 0

        def deadly(record: Any) -> None:
            nonlocal writes
            if writes == self.deadly[rank]:
                raise Killed
            writes += 1
            keep(record)

        store.keep = deadly  # type: ignore[method-assign]
        try:
            with ExitStack() as opened:
                if rank == 0:
                    opened.enter_context(store.locked())
                self.barrier.wait(20)
                if rank > 0:
                    opened.enter_context(store.locked())
                records = work(
                    tasks_of(self.needs, store, self.done),
                    store,
                    self.heard if rank == 0 else Heard(),
                    self.processes(rank),
                )
                if rank == 0:
                    self.found = {r.name: r.result.value for r in records if r.result is not None}
        except (Killed, ProcessFailed, BrokenBarrierError):
            pass

    def start(self) -> None:
        members = [threading.Thread(target=self.member, args=(rank,)) for rank in range(self.count)]
        for member in members:
            member.start()
        for member in members:
            member.join()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Processes give up on each other at once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in (("PATIENCE", 0.2), ("LONGEST", 0.0), ("PAUSE", 0.01)):
            patch.setattr(stores, name, seconds)
        yield


@pytest.mark.usefixtures("impatient")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(needs=graphs, starts=st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=3), max_size=2))
def test_whoever_dies_at_whatever_write_the_end_is_the_same(
    needs: Needs, starts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("job")
    for deadly in [*starts, [99, 99]]:
        team = Team(folder, needs, deadly)
        team.start()
    if team.found is not None:
        assert team.found == expected(needs)
    assert alone(folder, needs) == expected(needs)


def test_two_processes_share_tasks_that_need_each_other(tmp_path: Path) -> None:
    needs: Needs = [[], [0], [1], [0, 2], [3], [4, 1]]
    team = Team(tmp_path, needs, [99, 99])
    team.start()
    assert team.found == expected(needs)
    assert sorted(team.done) == list(range(len(needs)))
    assert team.heard.bars == {"tasks": [12, 12]}, "the main process tells what all have done"
    assert team.heard.done == pytest.approx(team.heard.weight)
    ranks = {Store[Sum](tmp_path / "tasks", Sum).read(f"t/{number}").process for number in range(len(needs))}
    assert ranks == {0, 1}


def broken(error: BaseException) -> Callable[[object], Sum]:
    def value(step: object) -> Sum:
        raise error

    return value


def failing(store: Store[Sum], error: BaseException) -> list[Task[Sum]]:
    return [
        Task("a/good", lambda step: Sum(value=1)),
        Task("a/broken", broken(error)),
        Task("a/needy", lambda step: store.result("a/broken")),
        Task("a/last", lambda step: store.result("a/good")),
    ]


def test_a_task_that_fails_ends_the_job(tmp_path: Path) -> None:
    with Store[Sum](tmp_path / "tasks", Sum).locked() as store:
        with pytest.raises(RuntimeError, match="luck"):
            work(failing(store, RuntimeError("no luck")), store, Heard())
        assert list(store.records) == ["a/good"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("no\nluck"), "failed", "RuntimeError: no luck"),
        (OKRError("no luck, add some"), "failed", "no luck, add some"),
        (NotAvailable("needs luck"), "not available", "needs luck"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "failed", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_kept_going_a_failure_costs_the_task_and_those_that_need_it(
    error: Exception, status: str, reason: str, tmp_path: Path
) -> None:
    heard = Heard()
    with Store[Sum](tmp_path / "tasks", Sum).locked() as store:
        found = work(failing(store, error), store, heard, keep_going=True)
    assert [record.status for record in found] == ["done", status, "not available", "done"]
    assert [found[1].reason, found[2].reason] == [reason, f"needs a/broken: {reason}"]
    assert heard.bars == {"tasks": [4, 4]}
    with Store[Sum](tmp_path / "tasks", Sum).locked() as store:
        whole = [Task(task.name, lambda step: Sum(value=2)) for task in failing(store, error)]
        again = work(whole, store, Heard(), keep_going=True)
    assert [record.result.value for record in again if record.result] == [1, 2, 2, 1], "what failed is tried again"


def test_an_interruption_ends_the_job_and_loses_only_its_task(tmp_path: Path) -> None:
    with Store[Sum](tmp_path / "tasks", Sum).locked() as store:
        with pytest.raises(KeyboardInterrupt):
            work(failing(store, KeyboardInterrupt()), store, Heard(), keep_going=True)
        assert list(store.records) == ["a/good"]


def test_kept_going_a_record_that_finds_no_room_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise InvalidConfig(f"cannot write {path}: No space left on device")

    with Store[Sum](tmp_path / "tasks", Sum).locked() as store:
        tasks = failing(store, RuntimeError("no luck"))
        monkeypatch.setattr(stores, "write_atomically", full)
        found = work(tasks, store, Heard(), keep_going=True)
        assert {record.status for record in found} == {"failed", "not available"}
        assert "could not be kept: cannot write" in found[0].reason
        with pytest.raises(InvalidConfig, match="No space"):
            work(tasks, store, Heard())
