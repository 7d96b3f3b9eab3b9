"""The executable form of the text: modules named after chapters, at least one check per clause."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from hypothesis.strategies import SearchStrategy

from ..subject import Subject

Body = Callable[..., None]


@dataclass(frozen=True)
class Check:
    """One property of one clause.

    ``body(subject, case)`` raises Violation where the clause does not hold; ``strategy()`` generates the cases (None:
    there is one case only, and ``body(subject)`` is called once). ``share`` scales the profile's number of cases.
    ``sampled``: the one case is a statistic, and ``body(subject, count)`` takes it over as many keys or texts.
    """

    clause: str
    body: Body
    strategy: Callable[[], SearchStrategy[Any]] | None
    share: float
    sampled: bool

    @property
    def name(self) -> str:
        return f"{self.body.__module__.rpartition('.')[2]}.{self.body.__name__}"

    def once(self, subject: Subject, cases: int) -> None:
        """Call a check without a strategy; ``cases`` is the profile's number."""
        self.body(subject, *([cases] if self.sampled else []))


_CHECKS: list[Check] = []


def check(
    clause: str,
    strategy: Callable[[], SearchStrategy[Any]] | None = None,
    *,
    share: float = 1.0,
    sampled: bool = False,
) -> Callable[[Body], Body]:
    """Register a check of ``clause``."""

    def register(body: Body) -> Body:
        _CHECKS.append(Check(clause, body, strategy, share, sampled))
        return body

    return register


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check: those of one case first, then those of drawn cases, then statistics; each kind by the name of its
    module and then as they stand in it, whoever imported which first."""
    for module in sorted(iter_modules(__path__), key=lambda m: m.name):
        import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_CHECKS, key=lambda c: (c.sampled, c.strategy is not None, c.body.__module__)))
