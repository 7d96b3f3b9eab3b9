"""Cases drawn once and put to many implementations: drawing them is most of the work."""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from hypothesis import given
from hypothesis.strategies import SearchStrategy

from .. import vectors
from ..checks import Check, all_checks
from ..profiles import PROFILES, Profile
from ..registry import Clause
from ..runner import run_vectors
from ..subject import Subject
from ..verdicts import Fault, NotApplicable, Violation

Cases = dict[str, list[Any]]


@dataclass(frozen=True)
class Question:
    """One check of a clause, or the clause's vectors (``check`` is None)."""

    clause: Clause
    check: Check | None

    @property
    def name(self) -> str:
        """Changes when the check's own code changes."""
        if self.check is None:
            return f"{self.clause.id} vectors"
        return f"{self.clause.id} {self.check.name} {_digest(self.check.body)}"

    def ask(self, subject: Subject, cases: Cases) -> tuple[str, str]:
        """The verdict and what was found."""
        if self.check is None:
            return _on_vectors(subject, self.clause)
        return _on_cases(subject, self.check, cases[self.check.name])


@cache
def _digest(body: Callable[..., None]) -> str:
    return hashlib.sha256(inspect.getsource(body).encode()).hexdigest()[:8]


def questions(clauses: Iterable[Clause]) -> list[Question]:
    """All that can be asked about the clauses, clause by clause."""
    found = []
    for clause in clauses:
        if any(True for _ in vectors.for_clause(clause.id)):
            found.append(Question(clause, None))
        found += [Question(clause, check) for check in all_checks() if check.clause == clause.id]
    return found


def drawn(clauses: Iterable[Clause], count: int) -> Cases:
    """The cases that a profile of ``count`` gives every check of the clauses, by the check's name."""
    wanted = {clause.id for clause in clauses}
    found: Cases = {}
    for check in all_checks():
        if check.clause in wanted:
            cases = found.setdefault(check.name, [])
            if check.strategy is not None:
                _draw(check.strategy(), Profile("drawn", count, shrink=False).settings(check.share), cases)
    return found


def _asked(check: Check, cases: list[Any]) -> list[Callable[[Subject], None]]:
    """The calls of a check, a statistic being taken over as many keys or texts as the ci profile takes."""
    if check.strategy is None:
        return [lambda subject: check.once(subject, PROFILES["ci"].cases)]
    return [partial(lambda case, subject: check.body(subject, case), case) for case in cases]


def _draw(strategy: SearchStrategy[Any], settings: Any, cases: list[Any]) -> None:
    def keep(case: Any) -> None:
        cases.append(case)

    settings(given(strategy)(keep))()


def verdict(subject: Subject, clause: Clause, cases: Cases | None, most: int | None = None) -> tuple[str, str]:
    """pass, fail or a fault, and what was found: on the clause's vectors, or on (``most`` of) the cases of its checks.

    An exception that is no fault of the subject's is called a crash.
    """
    if cases is None:
        return _on_vectors(subject, clause)
    for check in (check for check in all_checks() if check.clause == clause.id):
        said = _on_cases(subject, check, cases[check.name][:most])
        if said[0] != "pass":
            return said
    return "pass", ""


def _on_vectors(subject: Subject, clause: Clause) -> tuple[str, str]:
    result = run_vectors(subject, clause)
    what = result.note if result.failure is None else result.failure.what
    return ("pass", "") if result.verdict == "unsupported" else (result.verdict, what[:120])


def _on_cases(subject: Subject, check: Check, cases: list[Any]) -> tuple[str, str]:
    for ask in _asked(check, cases):
        try:
            ask(subject)
        except NotApplicable:
            continue
        except Violation as violation:
            return "fail", violation.what[:120]
        except Fault as fault:
            return fault.kind, str(fault)[:120]
        except Exception as error:
            return "crash", f"{type(error).__name__}: {error}"[:120]
    return "pass", ""
