"""Broken routers, one seeded bug each: the suite must catch every one, by the clauses it was predicted to break.

:mod:`okr.spec.zoo.systems` holds broken systems: the package with one bug in how it puts routing to work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from ..implementations.numpy_router import NumpyRouter
from ..profiles import Profile
from ..registry import load
from ..runner import Result, run_clause
from ..subject import Subject
from ..verdicts import FAILURES

CHAPTERS = ("key", "score", "zone", "strength", "selection", "ties", "failopen")


@dataclass(frozen=True)
class Member:
    """``fails``: clauses it must fail, every one. ``passes``: clauses, or prefixes of them, it must pass."""

    name: str
    bug: str
    router: type[NumpyRouter]
    fails: tuple[str, ...]
    passes: tuple[str, ...]

    def clauses(self) -> dict[str, bool]:
        """Clause id to whether it must fail."""
        routing = [clause.id for clause in load().values() if clause.level == "routing"]
        passes = {clause: False for prefix in self.passes for clause in routing if clause.startswith(prefix)}
        return passes | dict.fromkeys(self.fails, True)

    @contextmanager
    def at_large(self) -> Iterator[Callable[[], Subject]]:
        """A block in which what it yields makes a new subject with this bug."""
        yield lambda: Subject(self.router(), timeout=5)

    @staticmethod
    def caught(verdict: str) -> bool:
        """Whether this verdict on a clause that must fail is the one predicted."""
        return verdict in FAILURES


def judge(member: Any, hunt: int, keep: int) -> dict[str, tuple[bool, Result]]:
    """For each clause that a member declares: whether it came out as declared, and the result.

    ``hunt`` cases are spent on a clause that must fail, up to the first failure, ``keep`` on one that must pass.
    """
    answers = {}
    with member.at_large() as subject:
        for clause, must_fail in member.clauses().items():
            profile = Profile("zoo", hunt if must_fail else keep, shrink=False)
            result = run_clause(subject(), load()[clause], profile)
            answers[clause] = (member.caught(result.verdict) if must_fail else result.verdict == "pass", result)
    return answers


_MEMBERS: list[Member] = []


def seeded(
    bug: str, *, fails: tuple[str, ...], passes: tuple[str, ...]
) -> Callable[[type[NumpyRouter]], type[NumpyRouter]]:
    """Register a router as a member of the zoo."""

    def register(router: type[NumpyRouter]) -> type[NumpyRouter]:
        router.name = router.__name__
        _MEMBERS.append(Member(router.__name__, bug, router, fails, passes))
        return router

    return register


@cache
def members() -> tuple[Member, ...]:
    """Every member, by chapter, whoever imported which first."""
    for chapter in CHAPTERS:
        import_module(f"{__name__}.{chapter}")
    return tuple(sorted(_MEMBERS, key=lambda member: CHAPTERS.index(member.router.__module__.rpartition(".")[2])))
