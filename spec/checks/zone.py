"""Chapter ZONE: who may compete. Zones are probed from outside: by what a key can and cannot make run."""

import math

import numpy as np
from hypothesis import strategies as st

from .. import judge, oracle, strategies
from ..cases import SelectCase, Setting
from ..subject import Subject
from ..verdicts import NotApplicable, Violation, require
from . import check

_BAD = (
    {"epsilon": -1.0},
    {"epsilon": -math.inf},
    {"epsilon": math.nan},
    {"strength": 0.0},
    {"strength": -1.0},
    {"strength": math.nan},
    {"top_k": 0},
    {"top_k": -1},
    {"top_k": 5},
    {"zone": "Max"},
    {"zone": ""},
)


_GOOD: tuple[dict[str, object], ...] = (
    {},
    {"top_k": 1},
    {"top_k": 4},
    {"epsilon": 0.0},
    {"epsilon": math.inf},
    {"strength": 1e-30},
)


@check("OKR-ZONE-001", lambda: st.sampled_from(_BAD))
def settings_out_of_range_are_refused(subject: Subject, bad: dict[str, object]) -> None:
    plain = {"top_k": 2, "epsilon": 1.0, "zone": "max", "strength": math.inf}
    scores = np.arange(8, dtype=np.float32).reshape(2, 4)
    require(subject.refuses("select", scores, scores, **{**plain, **bad}), f"the setting {bad} was accepted")
    for good in _GOOD:
        subject.accepts("select", scores, scores, **{**plain, **good})


def _probed(subject: Subject, case: SelectCase, what: str, *, part: int | None = None) -> None:
    """Each token's reach (part 0), held experts (1) or both agree with a legal zone.

    A token with fewer than k candidates is passed over: the text does not say which experts it runs.
    """
    for token in range(case.tokens):
        row = case.choice[token]
        if np.count_nonzero(row > -math.inf) < case.setting.top_k:
            continue
        found, allowed = judge.probe(subject, row, case.setting), judge.expected_probes(row, case.setting)
        if part is None and found in allowed:
            continue
        if part is not None and found[part] in [pair[part] for pair in allowed]:
            continue
        shown = [pair if part is None else pair[part] for pair in allowed]
        seen = str(found if part is None else found[part])
        raise Violation(f"token {token}: {what}", expected=" or ".join(map(str, shown)), got=seen)


def _distinct(zone: str | None = None) -> st.SearchStrategy[SelectCase]:
    return strategies.distinct(zone=zone, strength=math.inf)


@check("OKR-ZONE-002", lambda: _distinct("max"))
def max_zone_reaches_epsilon_below_the_best(subject: Subject, case: SelectCase) -> None:
    _probed(subject, case, "experts that the key can make run", part=0)


@check("OKR-ZONE-003", lambda: _distinct("max"))
def max_zone_locks_nothing(subject: Subject, case: SelectCase) -> None:
    _probed(subject, case, "experts that run whatever the key", part=1)


@check("OKR-ZONE-004", lambda: _distinct("boundary"))
def boundary_locks_above_the_first_left_out(subject: Subject, case: SelectCase) -> None:
    _probed(subject, case, "experts that run whatever the key", part=1)


@st.composite
def _crowded(draw: st.DrawFn) -> SelectCase:
    """Scores from four values, so that several are equal around the cut, and none on an edge."""
    count = draw(st.integers(3, 8))
    choice = np.array([draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))], np.float32)
    setting = Setting(draw(st.integers(1, count - 1)), draw(st.integers(0, 2)) + 0.5, "boundary")
    return SelectCase(choice, np.zeros_like(choice), setting)


@check("OKR-ZONE-004", _crowded)
def duplicates_are_counted(subject: Subject, case: SelectCase) -> None:
    """A token that is no opportunity is left to OKR-TIE-002, as equal scores decide there who is native."""
    [(choice, key)] = oracle.rows(case)
    if oracle.zones(choice, key, case.setting)[0].opportunity:
        _probed(subject, case, "experts that run whatever the key", part=1)


@check("OKR-ZONE-005", lambda: _distinct("boundary"))
def boundary_reaches_epsilon_below_the_last_taken(subject: Subject, case: SelectCase) -> None:
    _probed(subject, case, "experts that the key can make run", part=0)


@check("OKR-ZONE-006", lambda: strategies.small(experts=(2, 8)))
def barred_experts_never_run(subject: Subject, case: SelectCase) -> None:
    """Wherever k candidates are left, no barred expert runs, however much the key favours it."""
    key = np.where(np.isneginf(case.choice), np.float32(9), case.key)
    answer = subject.select(SelectCase(case.choice, key, case.setting))
    for token, (choice, _) in enumerate(oracle.rows(case)):
        if sum(c > -math.inf for c in choice) >= case.setting.top_k:
            barred = [e for e in answer.indices[token].tolist() if choice[e] == -math.inf]
            require(not barred, f"token {token}: barred experts {barred} run", got=answer.indices[token].tolist())


@check("OKR-ZONE-007", lambda: strategies.distinct(experts=(3, 8), strength=math.inf))
def opportunity_needs_more_competitors_than_free_slots(subject: Subject, case: SelectCase) -> None:
    """Against a key that ranks the other way round, the native selection survives exactly where nothing is free."""
    case = SelectCase(case.choice, -case.choice, case.setting)
    answer, stay = subject.select(case).indices, judge.native(case)
    for token, (choice, key) in enumerate(oracle.rows(case)):
        expected = oracle.zones(choice, key, case.setting)[0].opportunity
        moved = set(answer[token].tolist()) != set(stay[token].tolist())
        require(moved == expected, f"token {token}: an opportunity, or not", expected=expected, got=moved)


@check("OKR-ZONE-008", lambda: strategies.distinct())
def all_experts_selected_leaves_no_choice(subject: Subject, case: SelectCase) -> None:
    setting = Setting(case.experts, case.setting.epsilon, case.setting.zone, case.setting.strength)
    case = SelectCase(case.choice, case.key, setting)
    answer, expected = subject.select(case), judge.native(case)
    same = np.array_equal(answer.indices, expected)
    require(same, "k = E leaves nothing to choose", expected=expected.tolist(), got=answer.indices.tolist())
    require(answer.opportunity is None or not answer.opportunity.any(), "an opportunity at k = E")


@check("OKR-ZONE-009", lambda: strategies.small(experts=(2, 8), tokens=(1, 2)))
def infinite_epsilon_lets_everyone_compete(subject: Subject, case: SelectCase) -> None:
    setting = Setting(case.setting.top_k, math.inf, case.setting.zone)
    _probed(subject, SelectCase(case.choice, case.key, setting), "reach and held experts at epsilon = inf")


@check("OKR-ZONE-010", lambda: st.tuples(_distinct(), st.integers(1, 8)))
def larger_epsilon_never_shrinks_the_zone(subject: Subject, drawn: tuple[SelectCase, int]) -> None:
    case, more = drawn
    setting = case.setting
    larger = Setting(setting.top_k, setting.epsilon + more / 4, setting.zone)
    for token in range(case.tokens):
        before, after = (judge.probe(subject, case.choice[token], s)[0] for s in (setting, larger))
        require(before <= after, f"token {token}: epsilon {larger.epsilon} loses experts", expected=before, got=after)


@st.composite
def _on_the_edge(draw: st.DrawFn) -> SelectCase:
    """Scores exactly on an edge that float32 represents: multiples of 1/4, epsilon too."""
    count = draw(st.integers(2, 8))
    choice = np.array([draw(st.lists(st.integers(-8, 8), min_size=count, max_size=count))], np.float32) / np.float32(4)
    setting = Setting(
        draw(st.integers(1, count - 1)), draw(st.integers(0, 8)) / 4, draw(st.sampled_from(strategies.ZONES))
    )
    return SelectCase(choice, np.zeros_like(choice), setting)


@check("OKR-ZONE-011", _on_the_edge)
def edges_belong_where_the_text_puts_them(subject: Subject, case: SelectCase) -> None:
    _probed(subject, case, "reach and held experts with scores exactly on the edges")


@check("OKR-ZONE-012", lambda: strategies.cases(strength=math.inf))
def only_rounding_may_move_an_edge(subject: Subject, case: SelectCase) -> None:
    answer = subject.select(case)
    for token, (choice, key) in enumerate(oracle.rows(case)):
        allowed = oracle.zones(choice, key, case.setting)
        if not any(zone.opportunity for zone in allowed):
            continue
        taken = set(answer.indices[token].tolist())
        fits = [not z.opportunity or (z.locked <= taken and taken <= z.locked | z.pool) for z in allowed]
        require(any(fits), f"token {token}: the selection fits no zone within rounding", got=sorted(taken))


@check("OKR-ZONE-013", lambda: st.one_of(strategies.cases(), strategies.unsound("any").map(lambda pair: pair[0])))
def reported_zone_is_the_zone(subject: Subject, case: SelectCase) -> None:
    answer = subject.select(case)
    if answer.opportunity is None and answer.pool is None and answer.locked is None:
        raise NotApplicable("the zone is not reported")
    for token, (choice, key) in enumerate(oracle.rows(case)):
        opportunity = None if answer.opportunity is None else bool(answer.opportunity[token])
        pool = None if answer.pool is None else frozenset(np.flatnonzero(answer.pool[token]).tolist())
        locked = None if answer.locked is None else frozenset(np.flatnonzero(answer.locked[token]).tolist())
        allowed = oracle.zones(choice, key, case.setting)
        fits = any(
            opportunity in (None, z.opportunity) and pool in (None, z.pool) and locked in (None, z.locked)
            for z in allowed
        )
        require(
            fits,
            f"token {token}: the reported zone is not the zone",
            expected=" or ".join(map(str, allowed[:3])),
            got=f"opportunity {opportunity}, pool {pool}, locked {locked}",
        )
