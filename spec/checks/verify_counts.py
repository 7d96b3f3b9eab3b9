"""Chapters VERIFY and EVIDENCE, on what a replay might show: counts, swaps and prefixes against the oracles."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import counts, evidence, oracle
from ..cases import Routed, Setting
from ..subject import Subject
from ..verdicts import require
from . import check

EXPERTS, SIZE, TOP_K = 8, 32, 2
"""Of the sites of the softmax model, for which everything here is shown."""


@dataclass(frozen=True)
class Shown:
    """Traces of one model with what their replays show, part by part in the order of the sites, and a setting."""

    engine: Any
    traces: list[Any]
    parts: list[list[Routed]]
    setting: Setting
    skip: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """As arguments of a verification."""
        given = {name: getattr(self.setting, name) for name in ("epsilon", "zone", "strength")}
        return {**given, "skip_prompt": self.skip > 0}

    @property
    def judged(self) -> list[Routed]:
        """The parts without the tokens that are left out."""
        return [part for trace in self.parts for part in _from(trace, self.skip)]

    def counted(self, secret: bytes) -> list[list[counts.Counts]]:
        """The counts by trace and site."""
        return [[counts.counted(part, secret, self.setting, self.skip) for part in trace] for trace in self.parts]


@contextmanager
def _showing(traces: list[Any], parts: list[list[Routed]]) -> Iterator[Any]:
    """The engine of the softmax model, whose replays show what is given."""
    import torch

    from .. import system
    from ..system import okr

    engine, shown = okr.prepare(system.softmax_model()), {id(t): p for t, p in zip(traces, parts, strict=True)}

    def replay(trace: Any, observe: Any) -> None:
        for site, part in zip(engine.sites, shown[id(trace)], strict=True):
            observe(site, *(torch.from_numpy(a.copy()) for a in (part.choice, part.hidden, part.experts)))

    own, engine.replay = engine.replay, replay
    try:
        yield engine
    finally:
        engine.replay = own


def _from(parts: list[Routed], first: int) -> list[Routed]:
    """The parts from a token on."""
    return [Routed(p.stack, p.layer, p.choice[first:], p.hidden[first:], p.experts[first:]) for p in parts]


def _part(numbers: Any, layer: int, tokens: int, secret: bytes, setting: Setting, kind: str) -> Routed:
    """One site of one trace: choice scores that are whole 64ths, so that no zone has an open edge."""
    choice = np.round(numbers.normal(0, 1.5, (tokens, EXPERTS)) * 64) / 64
    hidden = numbers.normal(0, numbers.uniform(0.1, 9), (tokens, SIZE)).astype(np.float32)
    if "alike" in kind:
        hidden[:] = hidden[0]
    signs = oracle.projection(secret, stack="decoder", layer=layer, hidden_size=SIZE, num_experts=EXPERTS)
    scores = hidden @ signs / np.linalg.norm(hidden, axis=1, keepdims=True)
    ran = np.array([_ran(numbers, c, g, setting, kind) for c, g in zip(choice.tolist(), scores.tolist(), strict=True)])
    if "holes" in kind:
        ran[numbers.random(tokens) < 0.2] = -1
        ran[numbers.random(tokens) < 0.1] = -2
        hidden[numbers.random(tokens) < 0.1, 3] = np.nan
        hidden[numbers.random(tokens) < 0.1, 5] = np.inf
        choice[numbers.random(tokens) < 0.1, 2] = np.nan
        choice[numbers.random(choice.shape) < 0.1] = -np.inf
        hidden[numbers.random(tokens) < 0.1] = 0
    return Routed("decoder", layer, choice.astype(np.float32), hidden, ran.astype(np.int64))


def _ran(numbers: Any, choice: list[float], scores: list[float], setting: Setting, kind: str) -> list[int]:
    """The experts that run for a token: the key's choice, the model's own, or any."""
    if "any" in kind and numbers.random() < 0.5:
        return [int(expert) for expert in numbers.permutation(EXPERTS)[:TOP_K]]
    zone = oracle.zones(choice, scores, setting)[0]
    if "native" in kind or not zone.opportunity:
        return oracle.native(choice, TOP_K)
    hard = math.isinf(setting.strength)
    wishes = {e: scores[e] if hard else choice[e] + setting.strength * scores[e] for e in zone.pool}
    best = sorted(wishes, key=wishes.__getitem__, reverse=True)[: TOP_K - len(zone.locked)]
    return [*best, *zone.locked]


KINDS = ("keyed", "keyed any", "any holes", "keyed holes", "native", "keyed alike", "native any", "keyed any alike")
QUESTIONS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 9999),
        "lengths": st.lists(st.integers(1, 20), min_size=1, max_size=3),
        "zone": st.sampled_from(("boundary", "max")),
        "epsilon": st.sampled_from((0.25, 1.0, 2.5, math.inf)),
        "strength": st.sampled_from((0.125, 0.5, 1.0, math.inf, math.inf)),
        "kind": st.sampled_from(KINDS),
        "skip": st.sampled_from((0, 0, 0, 1, 2)),
    }
)


@contextmanager
def shown(drawn: dict[str, Any]) -> Iterator[tuple[bytes, Shown]]:
    """A secret, and what is shown of traces that it may have made."""
    from .. import system
    from ..system import okr

    numbers = np.random.default_rng(drawn["seed"])
    setting = Setting(TOP_K, drawn["epsilon"], drawn["zone"], drawn["strength"])
    header, secret = system.traces(0)[0].header, numbers.bytes(16)
    traces, parts = [], []
    for tokens in drawn["lengths"]:
        parts.append([_part(numbers, layer, tokens, secret, setting, drawn["kind"]) for layer in (0, 1)])
        experts = np.full((tokens, 2, TOP_K), -1, np.int16)
        ids = numbers.integers(0, 64, tokens + 1).astype(np.int32)
        traces.append(okr.Trace(header, ids, experts, min(drawn["skip"], tokens)))
    with _showing(traces, parts) as engine:
        yield secret, Shown(engine, traces, parts, setting, drawn["skip"])


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
        found = question.counted(secret)
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
    _require_tokens(got.tokens, found)


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


@check("OKR-EVIDENCE-003", lambda: QUESTIONS, share=0.2)
def z_is_the_oracles_at_every_site(subject: Subject, drawn: dict[str, Any]) -> None:
    from ..system import okr

    with shown(drawn) as (secret, question):
        for claimed in (secret, bytes(range(16))):
            key = okr.Key(claimed)
            got = okr.verify(question.engine, question.traces, key, decoys=1, alpha=0.5, **question.options)
            found = evidence.gathered(question.judged, question.setting)
            expected = evidence.under(claimed, found)
            require(got.swaps == expected.swaps, "swaps", expected=expected.swaps, got=got.swaps)
            evidence.require_same_z("all sites", expected.z, got.z)
            evidence.require_close("p-value of the swaps", expected.p_value, got.swaps_p)
            tail = math.erfc(expected.z / math.sqrt(2)) / 2
            require(math.isclose(got.normal_p, tail, rel_tol=1e-6), "the normal tail", expected=tail, got=got.normal_p)
            for number, site in enumerate(got.sites):
                own = [part for part in question.judged if part.layer == number]
                alone = evidence.under(claimed, evidence.gathered(own, question.setting))
                require(site.swaps == alone.swaps, "a site's swaps", expected=alone.swaps, got=site.swaps)
                evidence.require_same_z(site.path, alone.z, site.z)


@check("OKR-EVIDENCE-009", lambda: QUESTIONS, share=0.2)
def prefixes_have_the_p_value_of_their_swaps(subject: Subject, drawn: dict[str, Any]) -> None:
    """With one decoy the sites' p-value is never below 1/2, so the swaps alone decide: the oracle knows when."""
    from ..system import okr

    with shown(drawn) as (secret, question):
        for claimed in (secret, bytes(range(16))):
            expected = _prefixes(question, claimed)
            for alpha in (0.3, 1e-3):
                got = okr.verify(
                    question.engine, question.traces, okr.Key(claimed), decoys=1, alpha=alpha, **question.options
                )
                if any(abs(p - alpha) < 1e-6 * alpha for p in expected):
                    continue
                needed = next((number for number, p in enumerate(expected, 1) if p <= alpha), None)
                require(got.tokens_needed == needed, "tokens needed", expected=needed, got=got.tokens_needed)


def _prefixes(question: Shown, secret: bytes) -> list[float]:
    """Twice the p-value of the swaps, at most 1, after each decoder token of all traces in turn."""
    signs = [
        oracle.projection(secret, stack="decoder", layer=layer, hidden_size=SIZE, num_experts=EXPERTS)
        for layer in (0, 1)
    ]
    totals, found = [np.zeros((SIZE, EXPERTS)) for _ in signs], []
    for trace in question.parts:
        weights = [evidence.swap_weights(part, question.setting) for part in trace]
        for token in range(len(trace[0].choice)):
            for site, part in enumerate(trace):
                if token >= question.skip:
                    row = slice(token, token + 1)
                    totals[site] = totals[site] + evidence.summed(part.hidden[row], weights[site][row])
            z = evidence.distance(zip(totals, signs, strict=True))
            found.append(min(1.0, 2 * evidence.p_value(z)))
    return found


@check("OKR-EVIDENCE-009", lambda: QUESTIONS, share=0.1)
def prefixes_are_told_one_by_one(subject: Subject, drawn: dict[str, Any]) -> None:
    """The p-values after each token of one trace, the last of which is that of the whole with one decoy."""
    from okr.detection import prefix_p_values
    from okr.routing import Setting as Wanted

    from ..system import okr

    drawn = {**drawn, "lengths": drawn["lengths"][:1], "skip": min(1, drawn["skip"])}
    with shown(drawn) as (secret, question):
        given = {name: getattr(question.setting, name) for name in ("epsilon", "zone", "strength")}
        [trace] = question.traces
        got = prefix_p_values(question.engine, trace, okr.Key(secret), Wanted(**given), 1).tolist()
        many = prefix_p_values(question.engine, trace, okr.Key(secret), Wanted(**given)).tolist()
        whole = okr.verify(
            question.engine, trace, okr.Key(secret), alpha=0.5, **{**question.options, "skip_prompt": True}
        )
        expected = _prefixes(question, secret)
    require(len(got) == len(expected), "prefixes", expected=len(expected), got=len(got))
    for place, (right, found) in enumerate(zip(expected, got, strict=True)):
        evidence.require_close(f"p-value after {place + 1} tokens", right, found)
    fine = all(1e-300 <= p <= right * (1 + 1e-6) for p, right in zip(many, expected, strict=True))
    require(fine, "ranks raise a p-value", expected=expected, got=many)
    require(many[-1] >= whole.p_value * (1 - 1e-6), "the last prefix", expected=whole.p_value, got=many[-1])
