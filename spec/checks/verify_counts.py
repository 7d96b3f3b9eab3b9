"""Chapter VERIFY: the counts of a verdict against the oracle, on what a replay might show."""

import math
from collections import Counter
from typing import Any

from .. import counts, evidence
from ..shown import QUESTIONS, Shown, shown
from ..subject import Subject
from ..verdicts import require
from . import check


def _rate_is(what: str, rate: float | None, free: int, least: int, most: int) -> None:
    if not free:
        require(rate is None, f"{what}: a rate of nothing", got=rate)
        return
    got = -1.0 if rate is None else rate * free
    require(least - 1e-6 <= got <= most + 1e-6, f"{what}: matches", expected=(least, most), got=got)


@check("OKR-VERIFY-012", lambda: QUESTIONS, share=0.25)
def counts_follow_from_what_is_shown(subject: Subject, drawn: dict[str, Any]) -> None:
    """All counts of a verdict: whole, by site and by token."""
    from ..system import okr

    with shown(drawn) as (secret, question):
        got = okr.verify(question.engine, question.traces, okr.Key(secret), decoys=9, alpha=0.5, **question.options)
        found, swapped = question.counted(secret), _swaps(question)
    whole = counts.Counts()
    for part in (part for trace in found for part in trace):
        whole.add(part)
    expected = (whole.routed, whole.opportunities, whole.free, whole.outside)
    same = (got.routed, got.opportunities, got.free_slots, got.outside_zone)
    require(same == expected, "routed, opportunities, free slots, outside", expected=expected, got=same)
    _rate_is("all sites", got.hit_rate, whole.free, whole.least, whole.most)
    require((got.chance_rate is None) == (not whole.free), "the chance rate of nothing", got=got.chance_rate)
    require(len(got.sites) == 2, "sites", expected=2, got=len(got.sites))
    for number, site in enumerate(got.sites):
        one = counts.Counts()
        for trace in found:
            one.add(trace[number])
        named = (site.path, site.opportunities, site.free_slots)
        right = (question.engine.sites[number].path, one.opportunities, one.free)
        require(named == right, "a site's path, opportunities and free slots", expected=right, got=named)
        _rate_is(site.path, site.hit_rate, one.free, one.least, one.most)
        require((site.chance_rate is None) == (not one.free), "a site's chance rate of nothing", got=site.chance_rate)
        require(site.opportunities > 0 or site.rank_p == 1, "a rank without opportunities", expected=1, got=site.rank_p)
    parts = math.fsum((site.chance_rate or 0) * site.free_slots for site in got.sites)
    near = abs(parts - (got.chance_rate or 0) * whole.free) < 1e-6
    require(near, "matches of decoys at the sites", expected=(got.chance_rate or 0) * whole.free, got=parts)
    _require_tokens(got.tokens, found)
    for token in got.tokens:
        swaps = swapped[token.trace, token.index]
        require(token.swaps == swaps, f"swaps of token {token.index}", expected=swaps, got=token.swaps)


def _swaps(question: Shown) -> Counter[tuple[int, int]]:
    """How many experts were swapped in and count, by trace and token."""
    found = Counter[tuple[int, int]]()
    for number, trace in enumerate(question.parts):
        for part in trace:
            swapped = (evidence.swap_weights(part, question.setting) > 0).sum(1).tolist()
            found.update({(number, index): count for index, count in enumerate(swapped)})
    return found


def _require_tokens(got: Any, found: list[list[counts.Counts]]) -> None:
    expected: dict[tuple[int, int], Counter[str]] = {}
    for number, trace in enumerate(found):
        whole = counts.Counts()
        for part in trace:
            whole.add(part)
        expected |= {(number, index): token for index, token in whole.tokens.items()}
    places = [(token.trace, token.index) for token in got]
    require(places == sorted(expected), "tokens that the key could decide", expected=sorted(expected), got=places)
    for token in got:
        right = expected[token.trace, token.index]
        same = (token.opportunities, token.free_slots) == (right["opportunities"], right["free"])
        fine = same and right["least"] <= token.matched <= right["most"]
        require(fine, f"token {token.index} of trace {token.trace}", expected=right, got=token)
