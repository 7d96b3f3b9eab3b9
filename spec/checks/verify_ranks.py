"""Chapter VERIFY: ranks and rates among decoys, on states whose key scores are known."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from ..cases import Routed, Setting
from ..replays import replaying_once
from ..shown import EXPERTS, SIZE, TOP_K, Shown, alike, showing, shown
from ..subject import Subject
from ..verdicts import require
from . import check

_SECRET = bytes(range(40, 56))
_HARD = Setting(TOP_K, math.inf, "max", math.inf)


def _alike(*arguments: Any) -> Routed:
    return alike(_SECRET, *arguments)


def _verdict(question: Shown, decoys: int, **options: Any) -> Any:
    from ..system import okr

    given = {"decoys": decoys, "alpha": 0.5, **question.options, **options}
    return okr.verify(question.engine, question.traces, okr.Key(_SECRET), **given)


def _without_preferences(*counts: int) -> Iterator[tuple[int, Any]]:
    """Numbers of decoys with verdicts on states of zeros, under which every key has the same scores. Experts of the
    pool ran in all slots, with and without a locked expert."""
    locked = [9.0, 1.0, 1.25, 1.0, *[-9.0] * (EXPERTS - 4)]
    near = Setting(TOP_K, 1.0, "boundary", math.inf)
    for (setting, choice, ran), kind in product(
        ((_HARD, np.zeros(EXPERTS), (4, 2)), (near, locked, (1, 3))), (np.float32, np.float64)
    ):
        parts = [[_alike(layer, 3, choice, None, ran, kind) for layer in (0, 1)]]
        for decoys in counts:
            with showing(parts, setting) as question:
                yield decoys, _verdict(question, decoys)


@check("OKR-VERIFY-001")
def decoys_that_match_as_well_count(subject: Subject) -> None:
    """Where all keys have the same scores every decoy does as well as the key."""
    for decoys, got in _without_preferences(1, 9, 1023, 1025):
        ranks = [got.rank_p, *(site.rank_p for site in got.sites)]
        require(ranks == [1.0] * 3, f"ranks where {decoys} decoys do as well", expected=1, got=ranks)


@check("OKR-VERIFY-012")
def no_more_match_than_there_are_free_slots(subject: Subject) -> None:
    """Where all keys have the same scores each matches as much as can be."""
    for _, got in _without_preferences(9, 1025):
        rates = (got.hit_rate, got.chance_rate)
        require(rates == (1.0, 1.0), "rates where every key matches all", expected=1, got=rates)


@check("OKR-VERIFY-001")
def the_sum_of_preferences_decides_between_equal_matches(subject: Subject) -> None:
    """The two experts that ran have large key scores, the others none to speak of: 1 decoy in 28 prefers the same two,
    and the few of those with as large a sum do as well. With 4,999 decoys the bound lies over five standard deviations
    from either share."""
    for size in (0.25, 2.0):
        scores = [size if expert in (3, 6) else 0.001 * expert for expert in range(EXPERTS)]
        for kind in (np.float32, np.float64):
            parts = [[_alike(layer, 3, np.zeros(EXPERTS), scores, (6, 3), kind) for layer in (0, 1)]]
            with showing(parts, _HARD) as question:
                got = _verdict(question, 4999)
            for site in got.sites:
                require(site.rank_p <= 0.02, "the rank of a large sum", expected="<= 0.02", got=site.rank_p)
            require(got.rank_p <= 0.005, "the rank over all sites", expected="<= 0.005", got=got.rank_p)


@check("OKR-VERIFY-001")
def preferences_that_overflow_are_compared(subject: Subject) -> None:
    """The key is for one of the experts that ran and as much against the other, at a strength whose
    preferences no float32 number holds. Most decoys are for one of them at least."""
    scores = [1.05 if expert % 2 else -1.05 for expert in range(EXPERTS)]
    parts = [[_alike(layer, 2, np.zeros(EXPERTS), scores, (6, 3)) for layer in (0, 1)]]
    with showing(parts, replace(_HARD, strength=3.4e38)) as question:
        got = _verdict(question, 999)
    ranks = [site.rank_p for site in got.sites]
    require(min(ranks) > 0.4, "ranks of a key that is for one of two", expected="> 0.4", got=ranks)


@check("OKR-VERIFY-009")
def scores_of_decoys_have_either_sign(subject: Subject) -> None:
    """All key scores of the claimed key are 1, and an expert that lies 1 behind takes the only free slot where its own
    score is above that of the other by more: for 1 decoy in 4 with scores of 1 and -1, for 24% of those with normal
    ones. Decoys whose signs are those of the key, or more often one of the two, have another share."""
    choice = [9.0, 2.0, 1.0, *[-9.0] * (EXPERTS - 3)]
    parts = [[_alike(layer, 1, choice, [1.0] * EXPERTS, (0, 1)) for layer in (0, 1)]]
    with showing(parts, Setting(TOP_K, 2.0, "boundary", 1.0)) as question:
        got = _verdict(question, 39_999)
    for site in got.sites:
        near = abs(site.chance_rate - 0.755) <= 0.0155
        require(near, f"{site.path}: chance rate", expected="0.755 +- 0.0155", got=site.chance_rate)


@check("OKR-VERIFY-012")
def models_in_float64_have_the_same_counts(subject: Subject) -> None:
    """What a replay in float64 shows of the same numbers is counted in the same way, among few tokens and many."""
    for number, (zone, epsilon, strength, kind) in enumerate(
        (
            ("boundary", 1.0, math.inf, "keyed any"),
            ("boundary", 0.25, math.inf, "any holes"),
            ("max", math.inf, math.inf, "any"),
            ("boundary", 2.5, 1.0, "any holes"),
            ("max", 2.5, 0.5, "native any"),
            ("max", math.inf, 0.5, "keyed any"),
        )
    ):
        drawn = {"seed": number, "zone": zone, "epsilon": epsilon, "strength": strength, "kind": kind}
        with shown({**drawn, "lengths": [12, 5], "skip": 0}) as (_, question):
            _require_same(question, 39)
    with showing([[_any(layer, 600) for layer in (0, 1)]], Setting(TOP_K, 1.0, "boundary", math.inf)) as question:
        _require_same(question, 1099)


def _any(layer: int, tokens: int) -> Routed:
    """One site at which any experts ran."""
    numbers = np.random.default_rng(layer)
    choice = np.round(numbers.normal(0, 1.5, (tokens, EXPERTS)) * 64).astype(np.float32) / np.float32(64)
    hidden = numbers.normal(0, 1, (tokens, SIZE)).astype(np.float32)
    ran = numbers.permuted(np.tile(np.arange(EXPERTS), (tokens, 1)), axis=1)[:, :TOP_K]
    return Routed("decoder", layer, choice, hidden, ran)


def _require_same(question: Shown, decoys: int) -> None:
    """Close preferences may stand in either order: two matches of all keys, and one decoy's rank."""
    single = _verdict(question, decoys)
    for trace in question.parts:
        trace[:] = [replace(part, choice=part.choice.astype(np.float64)) for part in trace]
    double = _verdict(question, decoys)
    for name in ("routed", "opportunities", "free_slots", "outside_zone", "swaps"):
        right, got = getattr(single, name), getattr(double, name)
        require(right == got, f"{name} in float64", expected=right, got=got)
    for right, got in zip((single, *single.sites), (double, *double.sites), strict=True):
        moved = abs(right.hit_rate - got.hit_rate) * right.free_slots
        require(moved <= 2.5, "matches in float64", expected=right.hit_rate, got=got.hit_rate)
        moved = abs(right.chance_rate - got.chance_rate) * right.free_slots * decoys
        require(moved <= 2.5, "matches of decoys in float64", expected=right.chance_rate, got=got.chance_rate)
        moved = abs(right.rank_p - got.rank_p) * (decoys + 1)
        require(moved <= 1.5, "the rank in float64", expected=right.rank_p, got=got.rank_p)


@check("OKR-VERIFY-012")
def tokens_of_an_encoder_are_none_of_the_text(subject: Subject) -> None:
    """What decoder sites count is told by token, and nothing else is."""
    from .. import system
    from ..system import okr

    engine = replaying_once(system.capacity_model())
    given = {"decoys": 9, "epsilon": math.inf, "zone": "max", "strength": math.inf}
    got = okr.verify(engine, list(system.capacity_traces()), system.key(), **given)
    stacks = {site.path: site.stack for site in engine.sites}
    for name in ("opportunities", "free_slots"):
        everywhere = Counter[bool]()
        for site in got.sites:
            everywhere[stacks[site.path].startswith("encoder")] += getattr(site, name)
        told = sum(getattr(token, name) for token in got.tokens)
        require(everywhere[True] > 0, f"the encoder has no {name}: nothing to tell")
        require(told == everywhere[False], f"{name} by decoder token", expected=everywhere[False], got=told)
