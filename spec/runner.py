"""Runs clauses against an implementation and says of each what came out."""

import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis.errors import Flaky

from . import registry, vectors
from .cases import Call
from .checks import Check, all_checks
from .profiles import Profile
from .registry import Clause
from .subject import FUNCTIONS, Subject
from .verdicts import FAILURES, BadImplementation, Fault, NotApplicable, Unsupported, UsageError, Verdict, Violation


@dataclass(frozen=True)
class Failure:
    """The smallest case found on which a clause fails."""

    check: str
    what: str
    expected: str = ""
    got: str = ""
    case: str = ""
    call: Call | None = None


@dataclass
class Result:
    """What came out for one clause."""

    clause: Clause
    verdict: Verdict
    cases: int = 0
    failure: Failure | None = None
    note: str = ""
    known: str = ""  # the reason why this failure is expected
    seconds: float = field(default=0.0, compare=False)

    @property
    def failed(self) -> bool:
        return self.verdict in FAILURES


def smoke(subject: Subject) -> None:
    """A first plain call of each function there is. Raises BadImplementation: it is broken, or not a router at all."""
    if not any(subject.has(function) for function in FUNCTIONS):
        raise BadImplementation(f"{subject.name} has none of the functions {', '.join(FUNCTIONS)}")
    try:
        for case in vectors.smoke():
            if subject.has(case.function):
                case.answer(subject)
    except Fault as fault:
        raise BadImplementation(f"the first simple call failed ({fault.kind}): {fault}") from fault


def chosen(names: Sequence[str]) -> list[Clause]:
    """The clauses named: ids, or prefixes such as OKR-TIE; none means all. Raises UsageError for an unknown name."""
    clauses = list(registry.load().values())
    for name in names:
        if not name or not any(clause.id.startswith(name) for clause in clauses):
            raise UsageError(f"no clause is called {name or 'nothing'}; they are named like OKR-TIE-004, or OKR-TIE")
    return [c for c in clauses if not names or any(c.id.startswith(name) for name in names)]


def run(subject: Subject, clauses: Iterable[Clause], profile: Profile) -> list[Result]:
    """Every clause's result, in the order of the text."""
    return [run_clause(subject, clause, profile) for clause in clauses]


def run_clause(subject: Subject, clause: Clause, profile: Profile) -> Result:
    """All vectors and checks of one clause, up to the first failure."""
    if clause.level not in subject.levels:
        return Result(clause, "not applicable", note=f"{clause.level} clauses do not apply to a pure router")
    start = time.perf_counter()
    subject.last = None
    result = run_vectors(subject, clause)
    for check in (c for c in all_checks() if c.clause == clause.id):
        if result.verdict != "pass":
            break
        if getattr(subject.implementation, "static", False):
            continue
        result = _run_check(subject, clause, check, profile, result.cases)
    if result.verdict == "pass" and result.cases == 0:
        result.verdict, result.note = "unsupported", "no vector covers this clause"
    result.seconds = time.perf_counter() - start
    return result


def run_vectors(subject: Subject, clause: Clause) -> Result:
    """The clause's stored vectors alone, up to the first failure; none at all is a pass of 0 cases."""
    count = 0
    for vector in vectors.for_clause(clause.id):
        try:
            vector.judge(subject, clause.id)
        except Unsupported as missing:
            return Result(clause, "unsupported", note=str(missing))
        except (Violation, Fault) as error:
            return _failed(subject, clause, f"vector {vector.id}", repr(vector.case), error, count)
        count += 1
    return Result(clause, "pass", count)


def _run_check(subject: Subject, clause: Clause, check: Check, profile: Profile, done: int) -> Result:
    counted, not_applicable = [done], [0]
    last: list[Any] = [None]

    def body(case: Any) -> None:
        counted[0] += 1
        last[0] = case
        try:
            check.body(subject, case)
        except NotApplicable:
            not_applicable[0] += 1

    try:
        if check.strategy is None:
            counted[0] += 1
            check.once(subject, profile.cases)
        else:
            profile.settings(check.share)(given(check.strategy())(body))()
    except Unsupported as missing:
        return Result(clause, "unsupported", note=str(missing))
    except NotApplicable as reason:
        return Result(clause, "not applicable", note=str(reason))
    except (Violation, Fault) as error:
        return _failed(
            subject, clause, check.name, "" if check.strategy is None else _shown(last[0]), error, counted[0]
        )
    except Flaky as flaky:
        return _flaky(subject, clause, check, last[0], flaky, counted[0])
    except Exception as error:
        note = "".join(traceback.format_exception_only(error)).strip()
        if clause.level == "system" and _raised_by_package(error):
            failure = Failure(check.name, note, case="" if check.strategy is None else _shown(last[0]))
            return Result(clause, "crash", counted[0], failure)
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Result(clause, "suite error", note=f"{note} ({where.name})")
    if not_applicable[0] and not_applicable[0] == counted[0] - done:
        return Result(clause, "not applicable", note="its condition is never met")
    return Result(clause, "pass", counted[0])


def _raised_by_package(error: Exception) -> bool:
    """Whether an error of a system check comes out of the package it drives, not out of the suite."""
    package = find_spec("okr")
    places = package.submodule_search_locations if package is not None else None
    frames = traceback.extract_tb(error.__traceback__)
    last_own = max((i for i, f in enumerate(frames) if Path(f.filename).is_relative_to(registry.ROOT)), default=-1)
    return any(Path(f.filename).is_relative_to(place) for f in frames[last_own + 1 :] for place in places or ())


def _flaky(subject: Subject, clause: Clause, check: Check, case: Any, flaky: Flaky, cases: int) -> Result:
    """A failure that did not repeat: the implementation answers differently from call to call, or hung once."""
    inner = [e for e in getattr(flaky, "exceptions", ()) if isinstance(e, Violation | Fault)]
    error = inner[0] if inner else Violation("the answer to one and the same question changes from call to call")
    return _failed(subject, clause, check.name, _shown(case), error, cases)


def _failed(subject: Subject, clause: Clause, check: str, case: str, error: Exception, cases: int) -> Result:
    if isinstance(error, Fault):
        return Result(clause, error.kind, cases, Failure(check, str(error), case=case, call=subject.last))
    assert isinstance(error, Violation)
    return Result(clause, "fail", cases, Failure(check, error.what, error.expected, error.got, case, subject.last))


def _shown(case: Any) -> str:
    text = repr(case)
    return text if len(text) <= 4000 else text[:4000] + " ..."
