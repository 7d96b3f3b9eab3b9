"""The oracle against slower and plainer statements of the same thing."""

import math
from itertools import combinations, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from okr.spec import oracle, strategies
from okr.spec.cases import Setting

numbers = st.integers(-2, 2).map(float)


def plain_selection(c, g, setting):
    """The algorithm in real arithmetic, where all sums here are exact."""
    k, order = setting.top_k, sorted(range(len(c)), key=lambda e: (-c[e], e))
    if setting.zone == "max":
        locked, lower = set(), max(c) - setting.epsilon
    else:
        out = c[order[k]] if k < len(c) else -math.inf
        locked = {e for e in order if c[e] > out + setting.epsilon}
        lower = c[order[k - 1]] - setting.epsilon
    pool = [e for e in range(len(c)) if c[e] >= lower and e not in locked]
    free = k - len(locked)
    if not len(pool) > free > 0:
        return order[:k]
    rank = g if setting.strength == math.inf else [x + setting.strength * y for x, y in zip(c, g, strict=True)]
    taken = locked | set(sorted(pool, key=lambda e: (-rank[e], e))[:free])
    return [e for e in order if e in taken]


@st.composite
def exact_tokens(draw):
    count = draw(st.integers(1, 6))
    c, g = (draw(st.lists(numbers, min_size=count, max_size=count)) for _ in range(2))
    epsilon, strength = draw(st.sampled_from((0.0, 0.5, 1.0, 3.0))), draw(st.sampled_from((math.inf, 0.5, 1.0, 2.0)))
    return c, g, Setting(draw(st.integers(1, count)), epsilon, draw(st.sampled_from(strategies.ZONES)), strength)


@given(exact_tokens())
def test_exact_numbers_have_one_legal_selection(token):
    c, g, setting = token
    assert oracle.legal_selections(c, g, setting) == [plain_selection(c, g, setting)]


@given(exact_tokens())
def test_illegal_agrees_with_the_list_for_every_possible_answer(token):
    c, g, setting = token
    legal = oracle.legal_selections(c, g, setting)
    for chosen in combinations(range(len(c)), setting.top_k):
        answer = sorted(chosen, key=lambda e: (-c[e], e))
        assert (oracle.illegal(c, g, setting, answer) == "") == (answer in legal)


intervals = st.tuples(st.integers(0, 4), st.integers(0, 3))


@given(st.lists(intervals, min_size=1, max_size=5), st.lists(st.integers(0, 2), min_size=5, max_size=5), st.data())
def test_a_cut_is_legal_where_some_assignment_of_values_makes_it_so(spans, kinds, data):
    """All values of each kind within its interval, in steps of 1/4, fine enough to find a strict order."""
    merged = [(spans[kinds[i] % len(spans)], kinds[i] % len(spans)) for i in range(len(spans))]
    preferences = {
        e: oracle.Preference(low, low + width, (0.0, float(kind))) for e, ((low, width), kind) in enumerate(merged)
    }
    free = data.draw(st.integers(1, len(spans)))
    used = sorted({p.kind for p in preferences.values()})
    ranges = {p.kind: np.arange(p.low, p.high + 0.01, 0.25).tolist() for p in preferences.values()}
    reachable = set()
    for values in product(*(ranges[kind] for kind in used)):
        value = dict(zip(used, values, strict=True))
        ranked = sorted(preferences, key=lambda e: (-value[preferences[e].kind], e))
        reachable.add(frozenset(ranked[:free]))
    for chosen in combinations(preferences, free):
        assert oracle.cut_is_legal(preferences, set(chosen)) == (frozenset(chosen) in reachable)


@given(strategies.small(barred=True))
def test_whatever_rounds_within_the_bounds_is_legal(case):
    """A float32 and a float64 computation, each in two arrangements, are in the set."""
    for c, g in oracle.rows(case):
        if sum(x > -math.inf for x in c) < case.setting.top_k:
            continue
        for real in (np.float32, np.float64):
            with np.errstate(all="ignore"):
                assert oracle.illegal(c, g, case.setting, _rounded_selection(c, g, case.setting, real)) == ""


def _rounded_selection(c, g, setting, real):
    values, epsilon = [real(x) for x in c], real(setting.epsilon)
    k, order = setting.top_k, sorted(range(len(c)), key=lambda e: (-c[e], e))
    ranked = [*(values[e] for e in order), real(-np.inf)]
    locked = set() if setting.zone == "max" else {e for e in order if values[e] - ranked[k] > epsilon}
    top = ranked[0] if setting.zone == "max" else ranked[k - 1]
    pool = [e for e in range(len(c)) if c[e] > -math.inf and top - values[e] <= epsilon and e not in locked]
    free = k - len(locked)
    if not len(pool) > free > 0:
        return order[:k]
    soft = [
        x + real(setting.strength) * real(y) if math.isfinite(setting.strength) else real(y)
        for x, y in zip(values, g, strict=True)
    ]
    taken = locked | set(sorted(pool, key=lambda e: (-soft[e], e))[:free])
    return [e for e in order if e in taken]


def test_a_score_within_rounding_of_an_edge_may_fall_either_side():
    edge = strategies.step(0.9, 0)  # 1 - 0.1, which float32 does not represent
    zones = oracle.zones([1.0, edge], [0.0, 1.0], Setting(1, 0.1))
    assert {zone.opportunity for zone in zones} == {True, False}
    clear = oracle.zones([1.0, strategies.step(0.9, 9)], [0.0, 1.0], Setting(1, 0.1))
    assert [zone.opportunity for zone in clear] == [True]


def test_a_score_on_an_edge_that_float32_represents_is_not_open():
    for choice, expected in (([3.0, 2.0], True), ([3.0, strategies.step(2.0, -8)], False)):
        assert [z.opportunity for z in oracle.zones(choice, [0.0, 1.0], Setting(1, 1.0))] == [expected]


@given(strategies.projections())
def test_the_projection_is_repeatable_and_signed(case):
    matrix = oracle.projection(case.secret, **case.arguments())
    assert set(np.unique(matrix)) <= {-1, 1}
    assert np.array_equal(matrix, oracle.projection(case.secret, **case.arguments()))
