"""What a job consists of: tasks, the record that is kept of each, and which process does which."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from okr.errors import OKRError

Result = TypeVar("Result")
Status = Literal["done", "failed", "not available"]
Step = Callable[[int], None]
"""Called with a number of steps once they are done."""


class NotAvailable(OKRError):
    """What a task needs is not there: a package, a file, a model the user did not name."""


class Record(BaseModel, Generic[Result]):
    """What is kept of a task that has ended. ``result`` is None unless it is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: Status
    reason: str = ""
    inputs: dict[str, Any] = Field(default_factory=dict, description="options that only this task depends on")
    seconds: float = Field(ge=0)
    process: int = Field(default=0, ge=0, description="rank of the process that did it")
    result: Result | None = None


@dataclass(frozen=True)
class Task(Generic[Result]):
    """One piece of work. ``name`` is that of its file: words and slashes. ``work`` is given a function to call for the
    steps it has done, if it has more than one.

    Tasks with the same ``share`` are done by the same process; None: any may do it. ``inputs`` are options whose change
    makes it a different task. ``whole`` says of an earlier result whether it still counts.
    """

    name: str
    work: Callable[[Step], Result]
    bar: str = "tasks"
    steps: int = 1
    weight: float = 1.0
    share: Hashable = None
    inputs: tuple[tuple[str, Any], ...] = ()
    whole: Callable[[Result], bool] = lambda result: True


def deal(tasks: Sequence[Task[Any]], rank: int, count: int) -> list[Task[Any]]:
    """The tasks of process ``rank`` of ``count``, in their order: each share goes to the process with the least weight
    so far, the lowest rank first."""
    loads, owners, own = dict.fromkeys(range(count), 0.0), dict[Hashable, int](), list[Task[Any]]()
    for task in tasks:
        share = task.name if task.share is None else ("share", task.share)
        owner = owners.setdefault(share, min(range(count), key=lambda process: (loads[process], process)))
        loads[owner] += task.weight
        if owner == rank:
            own.append(task)
    return own
