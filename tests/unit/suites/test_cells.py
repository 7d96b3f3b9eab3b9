"""Cells: done once, kept whole, failing alone."""

import errno
from pathlib import Path

import pytest

from okr.commands.watching import estimate
from okr.errors import InvalidConfig
from okr.suites import cells
from okr.suites.cells import Cell, Ledger, NotAvailable, Outcome, Record, run_cells
from okr.suites.figures import Figure


class Watch:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.left, self.names = -1, []

    def begin(self, count: int, weight: float) -> None:
        self.left = count

    def done(self, record: Record, weight: float) -> None:
        self.names.append(record.name)


def outcome(value: float = 1.0) -> Outcome:
    return Outcome([Figure(measure="m", unit="u", method="x", value=value, samples=1)], {"value": value})


def test_a_cell_that_fails_costs_itself_and_those_that_need_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def broken() -> Outcome:
        raise RuntimeError("no\nluck")

    plan = [
        Cell("a/good", outcome),
        Cell("a/broken", broken),
        Cell("a/needy", lambda: Outcome(data={"v": ledger.data("a/broken")})),
        Cell("a/last", lambda: outcome(ledger.data("a/good")["value"])),
    ]
    found = run_cells(plan, ledger, Watch())
    assert [record.status for record in found] == ["done", "failed", "not available", "done"]
    assert found[1].reason == "RuntimeError: no luck"
    assert found[2].reason == "needs a/broken: RuntimeError: no luck"


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path: Path) -> None:
    calls = []

    def plan(broken: bool, model: str) -> list[Cell]:
        def work(name: str) -> Outcome:
            calls.append(name)
            if broken and name == "b":
                raise ValueError("not yet")
            return outcome()

        own = (("model", model),)
        return [Cell("a", lambda: work("a")), Cell("b", lambda: work("b")), Cell("c", lambda: work("c"), 1.0, own)]

    run_cells(plan(True, "one"), Ledger(tmp_path), Watch())
    watch = Watch()
    found = run_cells(plan(False, "one"), Ledger(tmp_path), watch)
    assert calls == ["a", "b", "c", "b"]
    assert (watch.left, watch.names) == (1, ["b"])
    assert all(record.status == "done" for record in found)
    run_cells(plan(False, "two"), Ledger(tmp_path), Watch())
    assert calls[4:] == ["c"], "an option of its own makes it another cell"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"name": "a"}', b"\xff\xfe"])
def test_a_damaged_file_counts_for_nothing(damage: bytes, tmp_path: Path) -> None:
    plan = [Cell("a", outcome)]
    run_cells(plan, Ledger(tmp_path), Watch())
    (tmp_path / "a.json").write_bytes(damage)
    assert run_cells(plan, Ledger(tmp_path), Watch())[0].status == "done"


def test_an_interruption_ends_the_suite_and_loses_only_the_cell_it_was_in(tmp_path: Path) -> None:
    def interrupted() -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells([Cell("a", outcome), Cell("b", interrupted), Cell("c", outcome)], Ledger(tmp_path), Watch())
    watch = Watch()
    run_cells([Cell("a", outcome), Cell("b", outcome), Cell("c", outcome)], Ledger(tmp_path), watch)
    assert watch.names == ["b", "c"]


def test_a_full_disk_costs_the_cells_it_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = cells.write_atomically, {"a/one.json"}

    def writing(path: Path, text: str) -> None:
        if str(path.relative_to(tmp_path)) in full:
            raise InvalidConfig(f"cannot write {path.name}: No space left on device")
        write(path, text)

    monkeypatch.setattr(cells, "write_atomically", writing)
    found = run_cells([Cell("a/one", outcome), Cell("a/two", outcome)], Ledger(tmp_path), Watch())
    assert [record.status for record in found] == ["failed", "done"]
    assert "No space left on device" in found[0].reason
    assert found[0].figures == []
    full.clear()
    assert all(r.status == "done" for r in run_cells([Cell("a/one", outcome)], Ledger(tmp_path), Watch()))


def test_a_cell_that_meets_a_full_disk_itself_says_so(tmp_path: Path) -> None:
    def work() -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device")

    found = run_cells([Cell("a", work), Cell("b", outcome)], Ledger(tmp_path), Watch())
    assert found[0].status == "failed"
    assert "No space left on device" in found[0].reason
    assert found[1].status == "done"


def test_data_of_cells_that_failed_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def broken() -> Outcome:
        raise ValueError("no")

    run_cells([Cell("t/0", outcome), Cell("t/1", broken), Cell("u/0", broken)], ledger, Watch())
    assert ledger.all_data("t/") == [{"value": 1.0}]
    with pytest.raises(NotAvailable, match="ValueError: no"):
        ledger.all_data("u/")
    with pytest.raises(NotAvailable, match="not run"):
        ledger.data("v")


def test_time_left_follows_the_weights() -> None:
    assert estimate(10, 2, 8) == pytest.approx(30)
    assert estimate(10, 0, 8) == 0
