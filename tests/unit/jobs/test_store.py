"""The store of a job: what is kept, what counts, and who may write."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from okr.errors import InvalidConfig, ProcessFailed
from okr.jobs.store import LONGEST, PATIENCE, Store
from okr.jobs.tasks import NotAvailable, Record, Task


class Note(BaseModel):
    """What a task of these tests leaves."""

    text: str = ""
    number: float = 0.0


def store_in(folder: Path, rank: int = 0) -> Store[Note]:
    return Store(folder / "tasks", Note, rank)


def record(name: str, note: Note | None = None, **changed: object) -> Record[Note]:
    return Record[Note].model_validate({"name": name, "status": "done", "seconds": 1.0, "result": note} | changed)


def task(name: str, **options: object) -> Task[Note]:
    return Task(name, lambda step: Note(), **options)


@given(notes=st.lists(st.builds(Note, text=st.text(), number=st.floats(allow_nan=False)), max_size=4), cut=st.data())
def test_a_record_cut_anywhere_counts_for_nothing_and_the_others_stay(
    notes: list[Note], cut: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    tasks = [task(f"a/{index}") for index in range(len(notes))]
    with store_in(folder).locked() as store:
        for one, note in zip(tasks, notes, strict=True):
            store.keep(record(one.name, note))
        left = []
        if notes:
            torn = cut.draw(st.sampled_from(tasks)).name
            content = store.path(torn).read_bytes()
            store.path(torn).write_bytes(content[: cut.draw(st.integers(0, len(content) - 3))])
            left = [torn]
    with store_in(folder).locked() as again:
        assert again.left(tasks) == left
        kept = {one.name: note for one, note in zip(tasks, notes, strict=True) if one.name not in left}
        assert {name: found.result for name, found in again.records.items()} == kept


def test_numbers_without_end_come_back(tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store:
        store.keep(record("a", Note(number=math.inf)))
    found = store_in(tmp_path).read("a")
    assert found is not None
    assert found.result == Note(number=math.inf)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"status": "failed", "result": None},
        {"inputs": {"judge": "somebody else"}},
        {"result": None},
    ],
)
def test_what_is_not_this_task_done_is_left_and_its_file_removed(changed: dict, tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store:
        store.path("a").write_text(record("a", Note()).model_copy(update=changed).model_dump_json())
        assert store.left([task("a", inputs=(("judge", "me"),))]) == ["a"]
        assert not store.path("a").exists()


def test_a_task_says_itself_whether_its_result_still_counts(tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store:
        for name in "ab":
            store.keep(record(name, Note(text=name)))
    with store_in(tmp_path).locked() as again:
        assert again.left([task(name, whole=lambda note: note.text == "a") for name in "ab"]) == ["b"]


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff", b"{}"])
def test_a_damaged_plan_is_refused_with_advice(damage: bytes, tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store:
        assert store.plan(["options"]) is None
        store.begin({"options": 1})
        assert store.plan(["options"]) == {"options": 1}
        (store.folder / "plan.json").write_bytes(damage)
        with pytest.raises(InvalidConfig, match=r"plan\.json is damaged: remove .* to begin again"):
            store.plan(["options"])


def test_a_plan_is_strict_json(tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store, pytest.raises(ValueError, match="Out of range"):
        store.begin({"number": math.nan})


def test_two_jobs_never_share_a_store(tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store:
        store.begin({})
        with pytest.raises(InvalidConfig, match="another run is writing to"), store_in(tmp_path).locked():
            pass
    with store_in(tmp_path).locked():
        pass


def test_a_store_in_which_nothing_was_written_leaves_nothing(tmp_path: Path) -> None:
    with store_in(tmp_path).locked():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_an_earlier_start_that_is_still_at_work_is_not_overtaken(tmp_path: Path) -> None:
    with store_in(tmp_path, 7).locked() as other:
        with pytest.raises(InvalidConfig, match="another run is writing"), store_in(tmp_path).locked():
            pass
        assert [path.name for path in other.folder.iterdir()] == [".lock-7"]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / ".lock-9").touch()  # left by one that was killed
    with store_in(tmp_path).locked() as main, store_in(tmp_path, 7).locked():
        assert {path.name for path in main.folder.iterdir()} == {".lock-0", ".lock-7"}


def test_what_killed_writes_left_is_removed(tmp_path: Path) -> None:
    with store_in(tmp_path).locked() as store:
        (store.folder / "a").mkdir()
        (store.folder / "a" / ".0123.part").touch()
        store.left([])
        assert not (store.folder / "a" / ".0123.part").exists()


def test_a_result_of_a_task_that_was_not_done_tells_why(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.order = ["a/1", "a/2", "b"]
    store.records = {
        "a/2": record("a/2", Note(text="2")),
        "a/1": record("a/1", Note(text="1")),
        "b": record("b", None, status="failed", reason="no luck"),
    }
    assert store.result("a/1").text == "1"
    assert [note.text for note in store.results("a/")] == ["1", "2"], "in the order of the job"
    with pytest.raises(NotAvailable, match="needs b: no luck"):
        store.result("b")
    with pytest.raises(NotAvailable, match=r"needs b\.\.\.: no luck"):
        store.results("b")
    with pytest.raises(NotAvailable, match="needs c: which was not run"):
        store.result("c")


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
    main, other, clock = store_in(tmp_path), store_in(tmp_path, 1), Clock()
    main.elsewhere = {"a", "b", "c"}

    def torn() -> None:
        other.path("b").write_text('{"name": "b", "sta')

    clock.events = [
        lambda: other.keep(record("a", Note())),
        lambda: None,
        torn,
        lambda: other.keep(record("b", Note(text="whole"))),
    ]
    heard = []
    main.heard = lambda found: heard.append(found.name)
    main.wait(["b"], clock=lambda: clock.now, pause=clock.pause)
    assert heard == ["a", "b"]
    assert main.result("b").text == "whole"
    assert main.elsewhere == {"c"}
    assert clock.now == 240.0


@pytest.mark.parametrize(("longest", "limit"), [(1.0, PATIENCE), (1000.0, LONGEST * 1000)])
def test_a_wait_without_a_word_ends_with_advice(longest: float, limit: float, tmp_path: Path) -> None:
    main, clock = store_in(tmp_path), Clock()
    main.records = {"a": record("a", Note(), seconds=longest)}
    main.elsewhere = {"b"}
    with pytest.raises(ProcessFailed, match=rf"1 parts .* for {limit / 60:.0f} minutes: .*add --resume"):
        main.wait(["b"], clock=lambda: clock.now, pause=clock.pause)
    assert limit < clock.now <= limit + 120


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidConfig, match="cannot write"), store_in(tmp_path).locked():
        pass
