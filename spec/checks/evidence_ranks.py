"""Chapter EVIDENCE, on what a replay might show: when ranks count, what they add by token, and swaps that cancel."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .. import evidence
from ..cases import Routed, Setting
from ..shown import EXPERTS, QUESTIONS, TOP_K, Shown, alike, showing, shown
from ..subject import Subject
from ..verdicts import require
from . import check

_SECRET = bytes(range(60, 76))
_HARD = Setting(TOP_K, math.inf, "max", math.inf)


def _verdict(question: Shown, secret: bytes = _SECRET, **options: Any) -> Any:
    from ..system import okr

    given = {"decoys": 19, "alpha": 0.5, **question.options, **options}
    return okr.verify(question.engine, question.traces, okr.Key(secret), **given)


def _require_fisher(got: Any) -> bool:
    """The sites' p-value follows from the ranks and from what was swapped; whether the ranks count."""
    ranks = [site.rank_p for site in got.sites if site.opportunities]
    counts = bool(ranks) and got.swaps >= 0.25 * got.expected_swaps > 0
    expected = evidence.fisher(ranks) if counts else 1.0
    evidence.require_close("p-value of the sites", expected, got.sites_p)
    return counts


@check("OKR-EVIDENCE-007", lambda: QUESTIONS, share=0.1)
def ranks_count_by_the_share_that_was_swapped(subject: Subject, drawn: dict[str, Any]) -> None:
    """In whatever replays show, and where few tokens are keyed."""
    for kind in (drawn["kind"], "few keyed"):
        with shown({**drawn, "kind": kind}) as (secret, question):
            _require_fisher(_verdict(question, secret))


@check("OKR-EVIDENCE-007")
def one_swap_is_compared_with_what_is_expected(subject: Subject) -> None:
    """Traces with one swap: the ranks count where random keys would make less than one on average, and not where they
    would make more than a dozen. In between, the package expects exactly four in two of the cases, from 16 draws."""
    cases = (
        ("keyed", 2, 8, 0.125, 1.0, True),
        ("keyed", 3, 48, 0.125, 1.0, True),
        ("few keyed", 40, 1, math.inf, 0.25, False),
        ("few keyed", 40, 2, math.inf, 0.25, False),
        ("few keyed", 18, 16, 0.125, 1.0, None),
        ("few keyed", 22, 47, 0.125, 1.0, None),
    )
    for kind, tokens, seed, strength, epsilon, right in cases:
        drawn = {"seed": seed, "lengths": [tokens], "zone": "boundary", "epsilon": epsilon, "strength": strength}
        with shown({**drawn, "kind": kind, "skip": 0}) as (secret, question):
            got = _verdict(question, secret)
        counts = _require_fisher(got)
        what = f"{got.swaps} swaps, {got.expected_swaps} of random keys"
        require(right in (None, counts), f"whether ranks count: {what}", expected=right, got=counts)


@check("OKR-EVIDENCE-005")
def keys_without_force_show_nothing(subject: Subject) -> None:
    """At a strength at which no key changes what runs, nothing was swapped and nothing is expected to be."""
    from .. import system

    choice = [3.0, 2.0, 1.5, 1.25, 1.0, 0.5, 0.25, 0.0]
    weak = Setting(TOP_K, 1.0, "boundary", 1e-3)
    for tokens in (1, 5):
        scores = [0.1 * expert for expert in range(EXPERTS)]
        parts = [[alike(_SECRET, layer, tokens, choice, scores, (0, 1)) for layer in (0, 1)]]
        with showing(parts, weak) as question:
            for secret in (_SECRET, *system.other_secrets(8)):
                got = _verdict(question, secret)
                require(got.opportunities == 2 * tokens, "opportunities", expected=2 * tokens, got=got.opportunities)
                require(got.expected_swaps < 1e-9, "swaps of random keys", expected=0, got=got.expected_swaps)
                found = (got.p_value, got.sites_p, got.swaps_p)
                require(found == (1.0, 1.0, 1.0), "p-values of native routing", expected=1, got=found)
                after = [token.p_value for token in got.tokens]
                require(after == [1.0] * tokens, "p-values after each token", expected=1, got=after)


@check("OKR-EVIDENCE-006")
def without_opportunities_no_key_is_named(subject: Subject) -> None:
    """At one site no token is an opportunity, and then at neither: attribution and spans say what verification says."""
    from .. import system
    from ..system import okr

    secrets = [_SECRET, *system.other_secrets(3)]
    keys = [okr.Key(secret) for secret in secrets]
    scores = [0.2 * expert for expert in range(EXPERTS)]
    parts = [alike(_SECRET, layer, 4, np.zeros(EXPERTS), scores, (7, 6)) for layer in (0, 1)]
    for empty in ((1,), (0, 1)):
        trace = [_recorded(part, 4) if part.layer in empty else part for part in parts]
        with showing([trace], _HARD) as question:
            found = okr.attribute(question.engine, question.traces, keys, alpha=1e-6, **question.options)
            spans = [
                okr.locate(question.engine, question.traces[0], key, alpha=1e-6, **question.options) for key in keys
            ]
            alone = [_verdict(question, secret) for secret in secrets]
        for candidate, verdict in zip(found.candidates, alone, strict=True):
            evidence.require_same_z("attribution", verdict.z, candidate.z)
            least = 1.0 if len(empty) == 2 else 0.0
            require(candidate.p_value >= least, "p-value of nothing", expected=least, got=candidate.p_value)
        require(found.key_id is None, "a key named on next to nothing", expected=None, got=found.key_id)
        require(not any(one.spans for one in spans), "spans of next to nothing", expected=(), got=spans)


@check("OKR-EVIDENCE-005")
def cancelled_swaps_are_none(subject: Subject) -> None:
    """Two tokens with the same state and opposite swaps; and the largest norm that is taken for 0."""
    from okr.detection import distance

    first, second = np.zeros(EXPERTS), np.zeros(EXPERTS)
    first[:2], second[6:] = 1, 1
    scores = [-1.0, -1.0, 0, 0, 0, 0, 1.0, 1.0]
    halves = [
        [alike(_SECRET, layer, 1, choice, scores, ran) for choice, ran in ((first, (6, 7)), (second, (0, 1)))]
        for layer in (0, 1)
    ]
    with showing([[_joined(*half) for half in halves]], _HARD) as question:
        got = _verdict(question, decoys=1)
    require(got.swaps == 8, "swaps", expected=8, got=got.swaps)
    found = (abs(got.z) < 1e-9, got.swaps_p, got.tokens[1].p_value)
    require(found == (True, 1.0, 1.0), "swaps that cancel: z is 0, p after both", expected=(True, 1, 1), got=found)
    for norms in ([1e-12], [0.0], [2.5e-13] * 4):
        z = distance([1.0] * len(norms), norms)
        require(z == 0, f"z where ||W||^2 is {sum(norms)}", expected=0, got=z)


def _joined(*parts: Routed) -> Routed:
    """The tokens of several parts of one site, one after the other."""
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("choice", "hidden", "experts"))
    return Routed(parts[0].stack, parts[0].layer, *arrays)


def _recorded(part: Routed, first: int) -> Routed:
    """The part without recorded experts before the token ``first``."""
    experts = part.experts.copy()
    experts[:first] = -1
    return replace(part, experts=experts)


@check("OKR-EVIDENCE-011")
def ranks_hold_until_the_next_opportunity(subject: Subject) -> None:
    """The key prefers the two experts that ran everywhere, by so little that the swaps show nothing. At a site 1 decoy
    in 28 has as many matches, from the site's first opportunity on. With 39,999 decoys the bounds are six standard
    deviations wide."""
    scores = [0.01 * expert for expert in range(EXPERTS)]
    traces = []
    for tokens, starts in ((6, (0, 2)), (4, (1, 3)), (3, (0, 3))):
        parts = [alike(_SECRET, layer, tokens, np.zeros(EXPERTS), scores, (7, 6)) for layer in (0, 1)]
        traces.append([_recorded(part, start) for part, start in zip(parts, starts, strict=True)])
    with showing(traces, _HARD) as question:
        got = _verdict(question, decoys=39_999)
    require(got.swaps_p == 1, "p-value of the swaps", expected=1, got=got.swaps_p)
    places = [(token.trace, token.index) for token in got.tokens]
    right = [*((0, index) for index in range(6)), *((1, index) for index in (1, 2, 3)), *((2, i) for i in range(3))]
    require(places == right, "tokens that the key could decide", expected=right, got=places)
    for token in got.tokens:
        sites = 1 if (token.trace, token.index) < (0, 2) else 2
        expected = 2 * evidence.fisher([1 / 28] * sites)
        near = math.isclose(token.p_value, expected, rel_tol=0.17)
        require(near, f"p-value after token {token.index} of trace {token.trace}", expected=expected, got=token.p_value)


@check("OKR-EVIDENCE-011")
def many_tokens_have_the_p_value_of_their_swaps(subject: Subject) -> None:
    """Where every token is the same z is the same after each, however many there are."""
    scores = [-0.8, -0.8, 0, 0, 0, 0, 0.8, 0.8]
    native = [1.0, 1.0, *[0.0] * (EXPERTS - 2)]
    parts = [alike(_SECRET, layer, 1100, native, scores, (7, 6)) for layer in (0, 1)]
    with showing([parts], _HARD) as question:
        got = _verdict(question, decoys=1)
        few = [
            replace(part, choice=part.choice[:1], hidden=part.hidden[:1], experts=part.experts[:1]) for part in parts
        ]
        found = evidence.under(_SECRET, evidence.gathered(few, _HARD))
    for token in got.tokens:
        evidence.require_close(f"p-value after {token.index + 1} tokens", 2 * found.p_value, token.p_value)
    require(got.tokens_needed == 1, "tokens needed", expected=1, got=got.tokens_needed)


@check("OKR-EVIDENCE-011")
def a_p_value_of_the_level_is_enough(subject: Subject) -> None:
    for seed in range(3):
        drawn = {"seed": seed, "lengths": [6, 5], "zone": "max", "epsilon": 2.5, "strength": math.inf, "skip": 0}
        with shown({**drawn, "kind": "keyed"}) as (secret, question):
            tokens = _verdict(question, secret).tokens
            least = min(tokens, key=lambda token: token.p_value)
            got = _verdict(question, secret, alpha=least.p_value).tokens_needed
        expected = (0, 6)[least.trace] + least.index + 1
        require(0 < least.p_value < 0.1, "the least p-value", expected="< 0.1", got=least.p_value)
        require(got == expected, "tokens needed for a p-value of exactly the level", expected=expected, got=got)
