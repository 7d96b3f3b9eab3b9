"""False alarms: correct implementations on many generated cases, in float32 and bfloat16 numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from .. import oracle, strategies
from ..adapters import load
from ..cases import FloatArray, ScoreCase, SelectCase
from ..profiles import Profile
from ..subject import Subject
from ..verdicts import Fault

CORRECT = {name: name for name in ("numpy", "torch", "numba", "compile", "stdlib", "reordered", "float64")}
CORRECT["stdlib"] = "okr.spec.implementations.variants:stdlib"
Change = Callable[[FloatArray], FloatArray]
SCORES_SHARE = 0.1  # of the cases ask key_scores, the others select


def rounded(values: FloatArray) -> FloatArray:
    """To bfloat16 where finite."""
    finite = np.isfinite(values)
    return np.where(finite, strategies.bfloat16(np.where(finite, values, 0)), values).astype(np.float32)


def upper_bound(trials: int, confidence: float = 0.95) -> float:
    """Clopper-Pearson: the largest false alarm rate that ``trials`` cases without one leave credible."""
    return float(1 - (1 - confidence) ** (1 / trials))


def run(cases: int, places: Mapping[str, str] = CORRECT) -> list[dict[str, Any]]:
    """For each implementation and number format: cases judged, and accusations. ``places`` says for each name in the
    report how ``okr conform`` calls the implementation."""
    subjects = {name: Subject(load(place), timeout=300) for name, place in places.items()}  # compilers take their time
    found = []
    for numbers in ("float32", "bfloat16"):
        alarms = _alarms(subjects, cases, rounded if numbers == "bfloat16" else np.asarray)
        for name in places:
            found.append(
                {
                    "implementation": name,
                    "numbers": numbers,
                    "cases": cases,
                    "alarms": len(alarms[name]),
                    "first": alarms[name][:1],
                    "bound": upper_bound(cases),
                }
            )
    return found


def _alarms(subjects: dict[str, Subject], cases: int, change: Change) -> dict[str, list[str]]:
    """What is said against each subject; all are asked the same questions."""
    alarms: dict[str, list[str]] = {name: [] for name in subjects}
    asked = [0]

    def ask(case: SelectCase | ScoreCase) -> None:
        asked[0] += 1
        for name, subject in subjects.items():
            problem = _problem(subject, _changed(case, change))
            if problem:
                alarms[name].append(problem)

    scored = int(cases * SCORES_SHARE)
    for strategy, count in ((_selects(), cases - scored), (strategies.score_cases(), scored)):
        Profile("alarms", count, shrink=False).settings()(given(strategy)(ask))()
    if asked[0] < cases:
        raise RuntimeError(f"only {asked[0]} of {cases} cases could be generated")
    return alarms


def _selects() -> st.SearchStrategy[SelectCase]:
    broken = strategies.unsound("any").map(lambda pair: pair[0])
    plain = strategies.cases()
    return st.one_of(plain, plain, plain, plain, broken)


def _changed(case: SelectCase | ScoreCase, change: Change) -> SelectCase | ScoreCase:
    if isinstance(case, SelectCase):
        return SelectCase(change(case.choice), change(case.key), case.setting)
    return ScoreCase(change(case.hidden), case.projection)


def _problem(subject: Subject, case: SelectCase | ScoreCase) -> str:
    try:
        return _wrong(subject, case)
    except Fault as fault:
        return f"{fault.kind}: {fault} in {case!r}"


def _wrong(subject: Subject, case: SelectCase | ScoreCase) -> str:
    if isinstance(case, SelectCase):
        problem = oracle.problem(case, subject.select(case))
        return "" if problem is None else f"{problem} in {case!r}"
    exact, bound = oracle.key_scores(case.hidden, case.projection)
    fine = (np.abs(subject.key_scores(case) - exact) <= bound + 1e-300).all()
    return "" if fine else f"key scores of {case!r}"
