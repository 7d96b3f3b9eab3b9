"""Chapter STR: how much a key may ask for."""

import math

import numpy as np
from hypothesis import strategies as st

from .. import judge, oracle, strategies
from ..cases import SelectCase, Setting
from ..subject import Subject
from ..verdicts import require
from . import check


@check("OKR-STR-001", lambda: st.tuples(strategies.distinct(strength=math.inf), st.integers(1, 4)))
def infinite_strength_ranks_by_key_score_alone(subject: Subject, drawn: tuple[SelectCase, int]) -> None:
    """With every expert in the pool, the choice scores do not matter at all."""
    case, factor = drawn
    case = SelectCase(case.choice * np.float32(factor), case.key, Setting(case.setting.top_k, math.inf))
    taken = subject.select(case).indices
    for token, (_, key) in enumerate(oracle.rows(case)):
        best = set(oracle.native(key, case.setting.top_k))
        got = set(taken[token].tolist())
        require(got == best, f"token {token}: not the largest key scores", expected=sorted(best), got=sorted(got))


def _free() -> st.SearchStrategy[SelectCase]:
    return strategies.distinct(strength="finite").map(
        lambda c: SelectCase(c.choice, c.key, Setting(c.setting.top_k, math.inf, "max", c.setting.strength))
    )


@check("OKR-STR-002", _free)
def finite_strength_ranks_by_the_sum(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@st.composite
def _near_sums(draw: st.DrawFn) -> SelectCase:
    """Two experts whose sums differ by 2^-17 to 2^-14 of their size: bfloat16 or float16 arithmetic mixes them up."""
    strength = draw(st.sampled_from((0.5, 1.0, 2.0, 0.1)))
    keys = [draw(st.integers(-16, 16)) / 8 for _ in range(2)]
    apart = draw(st.sampled_from((2**-17, 2**-16, 2**-14))) * 8 * draw(st.sampled_from((1, -1)))
    base = draw(st.integers(4, 8))
    choice = [base - strength * keys[0], base + apart - strength * keys[1]]
    setting = Setting(1, math.inf, draw(st.sampled_from(strategies.ZONES)), strength)
    return SelectCase(np.array([choice], np.float32), np.array([keys], np.float32), setting)


@check("OKR-STR-003", _near_sums)
def the_sum_is_float32_or_wider(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@check("OKR-STR-004", lambda: strategies.distinct(experts=(3, 8), strength="finite"))
def epsilon_stays_the_hard_bound(subject: Subject, case: SelectCase) -> None:
    """Whatever the strength, nobody from outside the zone runs and nobody locked is left out."""
    key = np.where(np.arange(case.experts) % 2 == 0, np.float32(1e4), np.float32(-1e4)) + case.key
    answer = subject.select(SelectCase(case.choice, key, case.setting))
    for token, (choice, row) in enumerate(oracle.rows(case)):
        zone = oracle.zones(choice, row, case.setting)[0]
        taken = set(answer.indices[token].tolist())
        if zone.opportunity:
            require(
                zone.locked <= taken <= zone.locked | zone.pool,
                f"token {token}: the selection leaves the zone",
                expected=f"locked {sorted(zone.locked)}, pool {sorted(zone.pool)}",
                got=sorted(taken),
            )


@st.composite
def _overflowing(draw: st.DrawFn) -> SelectCase:
    """Outsiders, a pool at the cut and locked experts, in any order; key scores of one sign more often than not."""
    levels = draw(st.permutations([-9.0, *draw(st.permutations([0.0, 0.25, 0.5, 0.75]))[:3], 9.0]))
    key = [draw(st.sampled_from((2.0, 3.0, 16.0))) for _ in levels]
    sign = draw(st.sampled_from(("all", "all negative", "mixed")))
    if sign != "all":
        flip = [sign == "all negative" or draw(st.booleans()) for _ in levels]
        key = [-g if f else g for g, f in zip(key, flip, strict=True)]
    if draw(st.booleans()):
        key[draw(st.integers(0, 4))] = 0.0
    strength = draw(st.sampled_from((3e38, 1e38, 1e37, 1e39, 1e300)))
    setting = Setting(draw(st.integers(1, 4)), 1.0, draw(st.sampled_from(strategies.ZONES)), strength)
    return SelectCase(np.array([levels], np.float32), np.array([key], np.float32), setting)


@check("OKR-STR-005", _overflowing)
def overflow_never_leaves_the_zone(subject: Subject, case: SelectCase) -> None:
    judge.legal(subject, case)


@check("OKR-STR-006", lambda: strategies.distinct(strength=2.0**-10))
def weak_keys_change_nothing_that_is_clear(subject: Subject, case: SelectCase) -> None:
    """Choice scores lie 1/4 apart and the key pushes by less than 1/100: the native selection."""
    got, expected = subject.select(case).indices, judge.native(case)
    require(np.array_equal(got, expected), "a weak key overruled a clear choice", expected=expected, got=got)


@check("OKR-STR-007", lambda: strategies.distinct(strength=math.inf))
def strong_keys_act_like_infinite_ones(subject: Subject, case: SelectCase) -> None:
    setting = Setting(case.setting.top_k, case.setting.epsilon, case.setting.zone, 2.0**16)
    strong = subject.select(SelectCase(case.choice, case.key, setting)).indices
    infinite = subject.select(case).indices
    require(np.array_equal(strong, infinite), "strength 65536 and inf differ", expected=infinite, got=strong)
