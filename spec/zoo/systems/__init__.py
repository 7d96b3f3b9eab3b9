"""Broken systems: the package with one seeded bug each in how it puts routing into models, records, replays, judges.

A bug is a change of one of the package's parts, in force while the member is looked at. Only a clause that is violated
catches it: code that checks itself and raises would be seen without the suite.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

from ...adapters import load as load_implementation
from ...registry import load
from ...subject import Subject

CHAPTERS = (
    "key", "selection", "weight", "attach", "trace", "trace_served", "replay", "verify", "verify_together", "text",
    "result", "evidence", "evidence_windows", "bake",
)  # fmt: skip
"""The modules of the zoo, each named after its chapter."""

Change = Callable[[Any, str, Any], None]
"""Owner, name of an attribute, what it becomes."""


@dataclass(frozen=True)
class System:
    """``fails``: clauses it must fail, every one. ``passes``: clauses, or prefixes of them, it must pass."""

    name: str
    bug: str
    seed: Callable[[Change], None]
    fails: tuple[str, ...]
    passes: tuple[str, ...]

    def clauses(self) -> dict[str, bool]:
        """Clause id to whether it must fail."""
        system = [clause.id for clause in load().values() if clause.level == "system"]
        passes = {clause: False for clause in system if clause.startswith(self.passes)}
        return passes | dict.fromkeys(self.fails, True)

    @contextmanager
    def at_large(self) -> Iterator[Callable[[], Subject]]:
        """A block in which the package has this bug; what it yields makes a subject."""
        from ... import models

        models.forget()
        try:
            with ExitStack() as changes:
                self.seed(lambda owner, name, value: changes.enter_context(patch.object(owner, name, value)) and None)
                yield lambda: Subject(load_implementation("okr"))
        finally:
            models.forget()

    @staticmethod
    def caught(verdict: str) -> bool:
        """Whether this verdict on a clause that must fail is the one predicted."""
        return verdict == "fail"


_SYSTEMS: list[System] = []


def broken(
    bug: str, *, fails: tuple[str, ...], passes: tuple[str, ...]
) -> Callable[[Callable[[Change], None]], Callable[[Change], None]]:
    """Register a bug as a member of the zoo."""

    def register(seed: Callable[[Change], None]) -> Callable[[Change], None]:
        name = "".join(part.capitalize() for part in seed.__name__.split("_"))
        _SYSTEMS.append(System(name, bug, seed, fails, passes))
        return seed

    return register


def keyed(bug: str, *, fails: tuple[str, ...], passes: tuple[str, ...]) -> Callable[[type], type]:
    """Register what watermarks put in the place of :class:`okr.engines.transformers.routings.Keyed`."""

    def register(routing: type) -> type:
        def seed(change: Change) -> None:
            from okr.engines.transformers import engine

            change(engine, "Keyed", routing)

        seed.__module__ = routing.__module__
        _SYSTEMS.append(System(routing.__name__, bug, seed, fails, passes))
        return routing

    return register


@cache
def systems() -> tuple[System, ...]:
    """Every member, by chapter, whoever imported which first."""
    for chapter in CHAPTERS:
        import_module(f"{__name__}.{chapter}")
    return tuple(sorted(_SYSTEMS, key=lambda member: CHAPTERS.index(member.seed.__module__.rpartition(".")[2])))
