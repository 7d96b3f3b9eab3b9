"""Cells: the tasks of a suite. Each runs once and is stored in a file of its own; its failure does not stop the others.

A cell that failed is tried again when the suite is resumed; cells that need it fail with the same reason.
"""

from collections.abc import Callable
from dataclasses import field
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from okr.jobs.store import Store
from okr.jobs.tasks import Task
from okr.suites.figures import Figure


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Outcome:
    """What a cell leaves: the figures that it was done for, and ``data`` for other cells."""

    figures: list[Figure] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


Cell = Task[Outcome]
Ledger = Store[Outcome]


def cell(name: str, work: Callable[[], Outcome], weight: float = 1.0, inputs: tuple[tuple[str, Any], ...] = ()) -> Cell:
    """One unit of a suite. ``weight`` is its expected share of the time, in any unit; ``inputs`` are options whose
    change makes it a different cell."""
    return Task(name, lambda step: work(), "cells", weight=weight, inputs=inputs)


def bound(work: Callable[..., Outcome], *arguments: object) -> Callable[[], Outcome]:
    """``work`` with its arguments, to be called later."""
    return lambda: work(*arguments)
