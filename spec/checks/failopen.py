"""Chapter FAIL: what is left alone."""

import math
from itertools import product

import numpy as np
from hypothesis import strategies as st

from .. import judge, oracle, strategies
from ..cases import SelectCase, Setting
from ..subject import Subject
from ..verdicts import require
from . import check

Spoilt = tuple[SelectCase, int]


def _left_alone(subject: Subject, spoilt: Spoilt) -> None:
    """The spoilt token: k distinct experts and, if reported, no opportunity."""
    case, token = spoilt
    answer = subject.select(case)
    taken = answer.indices[token].tolist()
    fine = len(set(taken)) == len(taken) and all(0 <= e < case.experts for e in taken)
    require(fine, f"token {token}: not k distinct experts in 0..E-1", got=taken)
    if answer.opportunity is not None:
        require(not answer.opportunity[token], f"token {token}: counted as an opportunity")


@check("OKR-FAIL-001", lambda: strategies.unsound("nan"))
def nan_is_left_alone(subject: Subject, spoilt: Spoilt) -> None:
    _left_alone(subject, spoilt)


@check("OKR-FAIL-002", lambda: strategies.unsound("inf"))
def infinity_is_left_alone(subject: Subject, spoilt: Spoilt) -> None:
    _left_alone(subject, spoilt)


@check("OKR-FAIL-003", lambda: strategies.unsound("few"))
def too_few_candidates_are_left_alone(subject: Subject, spoilt: Spoilt) -> None:
    _left_alone(subject, spoilt)


@check("OKR-FAIL-004", lambda: strategies.unsound("key"))
def broken_key_scores_mean_native(subject: Subject, spoilt: Spoilt) -> None:
    case, token = spoilt
    _left_alone(subject, spoilt)
    got, expected = subject.select(case).indices[token].tolist(), judge.native(case)[token].tolist()
    require(got == expected, f"token {token}: key scores are not finite", expected=expected, got=got)


@check("OKR-FAIL-005", lambda: st.tuples(strategies.distinct(), st.permutations(range(8))))
def exactly_k_candidates_are_taken(subject: Subject, drawn: tuple[SelectCase, list[int]]) -> None:
    case, order = drawn[0], [expert for expert in drawn[1] if expert < drawn[0].experts]
    choice = case.choice.copy()
    choice[:, order[case.setting.top_k :]] = -np.inf
    case = SelectCase(choice, case.key, case.setting)
    got, expected = subject.select(case).indices, judge.native(case)
    require(np.array_equal(got, expected), "exactly k candidates", expected=expected, got=got)


@check("OKR-FAIL-006", lambda: strategies.unsound("any"))
def one_broken_token_spoils_no_other(subject: Subject, spoilt: Spoilt) -> None:
    """Between two neighbours that a key turns upside down."""
    case, token = spoilt
    ramp = np.arange(case.experts, dtype=np.float32)
    choice = np.stack([ramp, case.choice[token], ramp[::-1]])
    key = np.stack([-ramp, case.key[token], -ramp[::-1]])
    setting = Setting(case.setting.top_k, math.inf, case.setting.zone)
    together = subject.select(SelectCase(choice, key, setting)).indices[[0, 2]]
    alone = subject.select(SelectCase(choice[[0, 2]], key[[0, 2]], setting)).indices
    require(np.array_equal(alone, together), "a broken token changed its neighbours", expected=alone, got=together)


@check("OKR-FAIL-006", lambda: strategies.unsound("any"), share=0.3)
def broken_tokens_spoil_no_long_batch(subject: Subject, spoilt: Spoilt) -> None:
    """Every second one of LONG tokens broken, the others ramps that a key turns upside down."""
    case, token = spoilt
    ramp = np.arange(case.experts, dtype=np.float32)
    setting = Setting(case.setting.top_k, math.inf, case.setting.zone)
    rows = np.arange(strategies.LONG) % 2 == 0
    choice, key = (
        np.where(rows[:, None], one, two) for one, two in ((case.choice[token], ramp), (case.key[token], -ramp))
    )
    together = subject.select(SelectCase(choice.astype(np.float32), key.astype(np.float32), setting)).indices[~rows]
    alone = subject.select(SelectCase(ramp[None], -ramp[None], setting)).indices
    require(bool((together == alone).all()), "broken tokens changed others", expected=alone[0], got=together[:3])


@check("OKR-FAIL-007", lambda: st.sampled_from((1e30, 1e38, 3.4e38)))
def large_finite_scores_are_sound(subject: Subject, size: float) -> None:
    """Near the largest float32 numbers, where a difference of scores overflows, zones still hold."""
    choice = np.array([[size, -size, size, -size]], np.float32)
    key = np.array([[0, 3, 1, 2]], np.float32)
    for zone, epsilon in product(strategies.ZONES, (1.0, math.inf)):
        for k in (1, 2, 3):
            case = SelectCase(choice, key, Setting(k, epsilon, zone))
            taken = subject.select(case).indices[0].tolist()
            legal = oracle.legal_selections(choice[0].tolist(), key[0].tolist(), case.setting)
            require(
                legal is None or taken in legal,
                f"scores of {size:g}, k = {k}, epsilon = {epsilon:g}, {zone}",
                expected=legal,
                got=taken,
            )
