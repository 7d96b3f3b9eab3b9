"""Cells: the units of a suite. Each is done once, kept in a file of its own, and fails alone.

A cell's file is put in place whole (or not at all), so that a suite that is killed goes on with the first cell that
has none. A cell that fails is marked with the reason and tried again when the suite is resumed; cells that need it fail
with the same reason, all others go on.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from okr.errors import InvalidConfig, OKRError
from okr.jobs.store import write_atomically
from okr.suites.figures import Figure

log = logging.getLogger("okr")


class NotAvailable(OKRError):
    """What a cell needs is not there: a package, a file, a model the user did not name."""


class Record(BaseModel):
    """What is kept of a cell. ``data`` is for other cells; figures are what it was done for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: Literal["done", "failed", "not available"]
    reason: str = ""
    inputs: dict[str, Any] = Field(default_factory=dict, description="options that only this cell depends on")
    seconds: float = Field(ge=0)
    figures: list[Figure] = []
    data: dict[str, Any] = {}


@dataclass(frozen=True)
class Outcome:
    """What a cell's work returns."""

    figures: Sequence[Figure] = ()
    data: dict[str, Any] | None = None


@dataclass(frozen=True)
class Cell:
    """One unit of work: ``work`` may read what earlier cells left (:meth:`Ledger.data`). ``weight`` is its expected
    share of the time, in any unit; ``inputs`` are options whose change makes it a different cell."""

    name: str
    work: Callable[[], Outcome]
    weight: float = 1.0
    inputs: tuple[tuple[str, Any], ...] = ()


def bound(work: Callable[..., Outcome], *arguments: object) -> Callable[[], Outcome]:
    """``work`` with its arguments, to be called later."""
    return lambda: work(*arguments)


class Ledger:
    """The cells that are done, in ``folder``: one JSON file each, named after the cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}

    def path(self, name: str) -> Path:
        """The file of a cell."""
        return self.folder / f"{name}.json"

    def read(self, cell: Cell) -> Record | None:
        """The record of a cell that is done with the same inputs; anything else on disk counts for nothing."""
        try:
            found = Record.model_validate_json(self.path(cell.name).read_bytes())
        except (OSError, ValidationError):
            return None
        same = found.name == cell.name and found.inputs == dict(cell.inputs)
        return found if same and found.status == "done" else None

    def keep(self, record: Record) -> Record:
        """Remember a record and put its file in place; where that cannot be written the cell has failed."""
        try:
            path = self.path(record.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, record.model_dump_json(indent=1) + "\n")
        except (OSError, InvalidConfig) as error:
            if record.status == "done":
                reason = f"its record could not be kept: {_one_line(error)}"
                record = record.model_copy(update={"status": "failed", "reason": reason, "figures": [], "data": {}})
        self.records[record.name] = record
        return record

    def data(self, name: str) -> dict[str, Any]:
        """What cell ``name`` left for others. Raises NotAvailable with its reason where it was not done."""
        record = self.records.get(name)
        if record is None or record.status != "done":
            raise NotAvailable(f"needs {name}: {record.reason if record else 'which was not run'}")
        return record.data

    def all_data(self, prefix: str) -> list[dict[str, Any]]:
        """What the cells whose names begin with ``prefix`` left, those that failed left out; NotAvailable for none."""
        matching = [record for name, record in self.records.items() if name.startswith(prefix)]
        done = [record.data for record in matching if record.status == "done"]
        if not done:
            raise NotAvailable(f"needs {prefix}...: {matching[0].reason if matching else 'which was not run'}")
        return done


class Watcher(Protocol):
    """Who is told how a suite goes."""

    def begin(self, cells: int, weight: float) -> None:
        """So many cells are left to do, weighing so much together."""

    def done(self, record: Record, weight: float) -> None:
        """A cell has ended."""


def run_cells(cells: Sequence[Cell], ledger: Ledger, watcher: Watcher) -> list[Record]:
    """Do what is not done yet, in order; the records of all ``cells``. Only an interruption ends it early."""
    for cell in cells:
        found = ledger.read(cell)
        if found is not None:
            ledger.records[cell.name] = found
    left = [cell for cell in cells if cell.name not in ledger.records]
    watcher.begin(len(left), sum(cell.weight for cell in left))
    for cell in left:
        watcher.done(ledger.keep(_do(cell)), cell.weight)
    return [ledger.records[cell.name] for cell in cells]


def _do(cell: Cell) -> Record:
    started = time.perf_counter()
    common: dict[str, Any] = {"name": cell.name, "inputs": dict(cell.inputs)}
    try:
        outcome = cell.work()
    except NotAvailable as error:
        return Record(status="not available", reason=_one_line(error), seconds=time.perf_counter() - started, **common)
    except Exception as error:  # whatever it is, it is this cell's alone; the log has the whole story
        log.warning("cell %s failed: %s", cell.name, _one_line(error), exc_info=not isinstance(error, OKRError))
        return Record(status="failed", reason=_one_line(error), seconds=time.perf_counter() - started, **common)
    return Record(
        status="done",
        seconds=time.perf_counter() - started,
        figures=list(outcome.figures),
        data=outcome.data or {},
        **common,
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OKRError) and text:
        return text[:500]
    return f"{type(error).__name__}: {text}"[:500]
