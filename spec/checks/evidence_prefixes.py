"""Chapter EVIDENCE, on what a replay might show: z at every site, and p-values after every token."""

import math
from typing import Any

import numpy as np

from .. import evidence, oracle
from ..shown import EXPERTS, QUESTIONS, SIZE, Shown, shown
from ..subject import Subject
from ..verdicts import require
from . import check


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


@check("OKR-EVIDENCE-011", lambda: QUESTIONS, share=0.2)
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


@check("OKR-EVIDENCE-011", lambda: QUESTIONS, share=0.1)
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
