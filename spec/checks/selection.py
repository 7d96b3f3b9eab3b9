"""Chapter SEL: which experts run."""

import math

import numpy as np
from hypothesis import strategies as st

from .. import judge, oracle, strategies
from ..cases import SelectCase, Setting
from ..subject import Subject
from ..verdicts import Violation, require
from . import check


@check("OKR-SEL-001", lambda: strategies.cases())
def no_opportunity_means_native(subject: Subject, case: SelectCase) -> None:
    answer, stay = subject.select(case).indices, judge.native(case)
    for token, (choice, key) in enumerate(oracle.rows(case)):
        enough = sum(c > -math.inf for c in choice) >= case.setting.top_k
        if enough and not any(zone.opportunity for zone in oracle.zones(choice, key, case.setting)):
            got, expected = answer[token].tolist(), stay[token].tolist()
            require(got == expected, f"token {token}: no opportunity, yet not native", expected=expected, got=got)


@check("OKR-SEL-002", lambda: strategies.cases(), share=2)
def opportunity_takes_the_preferred(subject: Subject, case: SelectCase) -> None:
    """Tokens that are no opportunity are left to OKR-SEL-001."""
    answer = subject.select(case).indices.tolist()
    for taken, (choice, key) in zip(answer, oracle.rows(case), strict=True):
        if any(zone.opportunity for zone in oracle.zones(choice, key, case.setting)):
            reason = oracle.illegal(choice, key, case.setting, taken)
            if reason:
                raise Violation(reason, expected=oracle.describe(choice, key, case.setting), got=str(taken))


@check("OKR-SEL-003", lambda: strategies.cases())
def always_k_distinct_experts(subject: Subject, case: SelectCase) -> None:
    for token, taken in enumerate(subject.select(case).indices.tolist()):
        fine = len(set(taken)) == len(taken) and all(0 <= e < case.experts for e in taken)
        require(fine, f"token {token}: not k distinct experts in 0..E-1", got=taken)


@check("OKR-SEL-004", lambda: strategies.distinct())
def descending_by_choice_score(subject: Subject, case: SelectCase) -> None:
    for token, taken in enumerate(subject.select(case).indices.tolist()):
        expected = sorted(taken, key=lambda e: -case.choice[token, e])
        require(taken == expected, f"token {token}: order of the selection", expected=expected, got=taken)


@check("OKR-SEL-005", lambda: st.one_of(strategies.small(tokens=(2, 4)), strategies.distinct(tokens=(2, 4))))
def tokens_do_not_see_each_other(subject: Subject, case: SelectCase) -> None:
    together = subject.select(case).indices
    backwards = subject.select(
        SelectCase(np.ascontiguousarray(case.choice[::-1]), np.ascontiguousarray(case.key[::-1]), case.setting)
    ).indices[::-1]
    require(np.array_equal(together, backwards), "the order of the batch matters", expected=together, got=backwards)
    for token in range(case.tokens):
        row = slice(token, token + 1)
        alone = subject.select(SelectCase(case.choice[row], case.key[row], case.setting)).indices
        require(
            np.array_equal(alone, together[row]), f"token {token} depends on others", expected=together[row], got=alone
        )


@check("OKR-SEL-005", lambda: strategies.cases(), share=0.5)
def long_batches_change_nothing(subject: Subject, case: SelectCase) -> None:
    """Each token among LONG: kernels take other ways through a long batch."""
    rows = np.arange(strategies.LONG) % case.tokens
    few = subject.select(case).indices[rows]
    many = subject.select(SelectCase(case.choice[rows], case.key[rows], case.setting)).indices
    for row in np.flatnonzero((few != many).any(axis=1))[:1]:
        require(
            False,
            f"token {row % case.tokens} in a batch of {strategies.LONG}",
            expected=few[row].tolist(),
            got=many[row].tolist(),
        )


@check("OKR-SEL-006", lambda: st.tuples(strategies.distinct(strength=math.inf), st.integers(-64, 64)))
def shifting_choice_scores_changes_nothing(subject: Subject, drawn: tuple[SelectCase, int]) -> None:
    case, shift = drawn
    before = subject.select(case).indices
    after = subject.select(SelectCase(case.choice + np.float32(shift), case.key, case.setting)).indices
    require(np.array_equal(before, after), f"choice scores {shift:+d}", expected=before, got=after)


def _permuted() -> st.SearchStrategy[tuple[SelectCase, list[int]]]:
    """Infinite strength: sums may tie where scores do not."""
    return st.tuples(strategies.distinct(experts=(3, 8), strength=math.inf), st.permutations(range(8)))


@check("OKR-SEL-007", _permuted)
def permuting_experts_permutes_the_selection(subject: Subject, drawn: tuple[SelectCase, list[int]]) -> None:
    case, order = drawn[0], [place for place in drawn[1] if place < drawn[0].experts]
    before = subject.select(case).indices
    after = subject.select(
        SelectCase(np.ascontiguousarray(case.choice[:, order]), np.ascontiguousarray(case.key[:, order]), case.setting)
    ).indices
    named = np.array(order, np.int64)[after].reshape(after.shape)
    require(np.array_equal(before, named), f"experts permuted by {order}", expected=before, got=named)


@check("OKR-SEL-008", lambda: strategies.distinct())
def zero_epsilon_without_ties_is_native(subject: Subject, case: SelectCase) -> None:
    setting = Setting(case.setting.top_k, 0.0, "boundary", case.setting.strength)
    case = SelectCase(case.choice, case.key, setting)
    got, expected = subject.select(case).indices, judge.native(case)
    require(np.array_equal(got, expected), "epsilon = 0 without ties", expected=expected, got=got)


@check("OKR-SEL-009", lambda: strategies.distinct())
def no_swap_costs_more_than_the_bound(subject: Subject, case: SelectCase) -> None:
    """Cost in choice score, worst expert gained against best expert lost."""
    k, epsilon = case.setting.top_k, case.setting.epsilon
    answer = subject.select(case).indices.tolist()
    for token, (choice, _) in enumerate(oracle.rows(case)):
        stay, taken = set(oracle.native(choice, k)), set(answer[token])
        if stay == taken:
            continue
        lost, gained = max(choice[e] for e in stay - taken), min(choice[e] for e in taken - stay)
        ranked = sorted(choice, reverse=True)
        bound = epsilon if case.setting.zone == "max" else 2 * epsilon - (ranked[k - 1] - ranked[k])
        require(
            lost - gained <= bound, f"token {token}: a swap costs too much", expected=f"<= {bound}", got=lost - gained
        )
        if case.setting.zone == "boundary":
            require(lost <= ranked[k] + epsilon, f"token {token}: lost an expert that should be locked", got=lost)


@check("OKR-SEL-010", lambda: strategies.distinct(zone="max", top_k=1, strength=math.inf))
def top_1_in_max_is_the_founding_rule(subject: Subject, case: SelectCase) -> None:
    """Among the experts within epsilon of the best, the one with the largest key score."""
    answer = subject.select(case).indices
    for token, (choice, key) in enumerate(oracle.rows(case)):
        near = [e for e, c in enumerate(choice) if c >= max(choice) - case.setting.epsilon]
        expected = max(near, key=lambda e: key[e])
        require(answer[token].tolist() == [expected], f"token {token}", expected=[expected], got=answer[token].tolist())


@check("OKR-SEL-011", lambda: strategies.cases())
def a_second_call_gives_the_same(subject: Subject, case: SelectCase) -> None:
    """That the arrays lent to the first call come back untouched is checked at every call of the suite."""
    first, second = subject.select(case).indices, subject.select(case).indices
    require(np.array_equal(first, second), "a second call gave another selection", expected=first, got=second)


@check("OKR-SEL-012", lambda: strategies.settings(6))
def no_tokens_no_selection(subject: Subject, setting: Setting) -> None:
    empty = np.zeros((0, 6), np.float32)
    subject.select(SelectCase(empty, empty, setting))


def _keys_to_scale() -> st.SearchStrategy[tuple[SelectCase, int]]:
    spread = strategies.distinct(experts=(3, 8), strength=math.inf)
    return st.tuples(st.one_of(spread, spread, strategies.small(strength=math.inf)), st.sampled_from((2, -2, 8, -8)))


@check("OKR-SEL-013", _keys_to_scale)
def only_the_order_of_key_scores_matters(subject: Subject, drawn: tuple[SelectCase, int]) -> None:
    """At infinite strength key scores times a power of 2 rank as before. Powers that leave float32 are left out."""
    case, power = drawn
    scaled = np.ldexp(case.key, power).astype(np.float32)
    if not np.array_equal(np.ldexp(scaled.astype(np.float64), -power), case.key):
        return
    before, after = (subject.select(SelectCase(case.choice, key, case.setting)).indices for key in (case.key, scaled))
    require(np.array_equal(before, after), f"key scores times 2^{power}", expected=before, got=after)
