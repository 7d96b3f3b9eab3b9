"""Broken routers, one seeded bug each: the suite must catch every one, by the clauses it was predicted to break."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from spec.implementations.numpy_router import NumpyRouter
from spec.profiles import Profile
from spec.registry import load
from spec.runner import Result, run_clause
from spec.subject import Subject

ROOMS = ("keys", "scores", "zones", "strengths", "selections", "ties", "failopens")


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
        fails = {f"OKR-{name}": True for name in self.fails}
        passing = (f"OKR-{prefix}" for prefix in self.passes)
        passes = {c.id: False for p in passing for c in load().values() if c.level == "routing" and c.id.startswith(p)}
        return {**passes, **fails}

    def judge(self, hunt: int, keep: int) -> dict[str, tuple[bool, Result]]:
        """For each declared clause: whether it came out as declared, and the result.

        ``hunt`` cases are spent on a clause that must fail, up to the first failure, ``keep`` on one that must pass.
        """
        answers = {}
        for clause, must_fail in self.clauses().items():
            profile = Profile("zoo", hunt if must_fail else keep, shrink=False)
            result = run_clause(Subject(self.router(), timeout=5), load()[clause], profile)
            answers[clause] = (result.failed if must_fail else result.verdict == "pass", result)
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
    """Every member."""
    for room in ROOMS:
        import_module(f"{__name__}.{room}")
    return tuple(_MEMBERS)
