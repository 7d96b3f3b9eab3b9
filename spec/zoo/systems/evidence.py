"""Verifications that combine the evidence in swaps wrongly."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from scipy.special import ndtr
from scipy.stats import combine_pvalues
from torch import Tensor

import okr as package
from okr.detection import SwapTally, TraceVerdict
from okr.detection.evidence import SiteEvidence

from . import Change, broken

okr: Any = package
attribution: Any = import_module("okr.detection.attribution")
swaps: Any = import_module("okr.detection.swaps")
tally: Any = import_module("okr.detection.tally")
many_keys: Any = import_module("okr.detection.many_keys")
verification: Any = import_module("okr.detection.verification")
MADE = ("OKR-WEIGHT-001", "OKR-TRACE-001", "OKR-REPLAY-001", "OKR-VERIFY-001", "OKR-VERIFY-004", "OKR-VERIFY-005")


def _in_tests(change: Change, name: str, value: Any) -> None:
    """Change a part of the test wherever it is used."""
    for module in (verification, tally, many_keys, attribution):
        if hasattr(module, name):
            change(module, name, value)


def _weights(change: Change, edit: Callable[[Tensor, SiteEvidence], Tensor]) -> None:
    weights = swaps.swap_weights
    change(swaps, "swap_weights", lambda evidence: edit(weights(evidence), evidence))


def _judged(change: Change, edit: Callable[[TraceVerdict], TraceVerdict]) -> None:
    verify = okr.verify
    change(okr, "verify", lambda *arguments, **options: edit(verify(*arguments, **options)))


def _with(verdict: TraceVerdict, z: float, p_value: float) -> TraceVerdict:
    return replace(verdict, z=z, p_value=p_value, watermarked=p_value <= verdict.alpha)


@broken(
    "the experts that came in counted alone",
    fails=("OKR-EVIDENCE-001", "OKR-EVIDENCE-003"),
    passes=(*MADE, "OKR-VERIFY-003", "OKR-EVIDENCE-006"),
)
def swapped_in_alone(change: Change) -> None:
    _weights(change, lambda weights, evidence: weights.clamp_min(0))


@broken(
    "the signs of the swaps the wrong way round",
    fails=("OKR-EVIDENCE-001", "OKR-VERIFY-002"),
    passes=(*MADE, "OKR-VERIFY-003", "OKR-EVIDENCE-005", "OKR-EVIDENCE-006"),
)
def signs_inverted(change: Change) -> None:
    _weights(change, lambda weights, evidence: -weights)


@broken(
    "evidence against the mean routing instead of the native selection",
    fails=("OKR-EVIDENCE-001", "OKR-EVIDENCE-005"),
    passes=(*MADE, "OKR-EVIDENCE-006"),
)
def against_the_mean_routing(change: Change) -> None:
    def edit(weights: Tensor, evidence: SiteEvidence) -> Tensor:
        ran = torch.zeros_like(weights).scatter_(-1, evidence.experts, 1.0)
        return (ran - ran.mean(0)) * evidence.pool

    _weights(change, edit)


def _swapped(evidence: SiteEvidence) -> Tensor:
    """All swaps, far ones too, at full weight."""
    native = evidence.choice.sort(dim=-1, descending=True, stable=True).indices[:, : evidence.experts.shape[-1]]
    found = torch.zeros(evidence.choice.shape, dtype=torch.float64)
    return found.scatter_(-1, evidence.experts, 1.0).scatter_add_(-1, native, torch.full_like(native, -1).double())


@broken(
    "far swaps at full weight",
    fails=("OKR-EVIDENCE-002", "OKR-EVIDENCE-005"),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-003", "OKR-EVIDENCE-006"),
)
def far_at_full_weight(change: Change) -> None:
    _weights(change, lambda weights, evidence: _swapped(evidence))


@broken(
    "far swaps left out, and nothing divided by their number",
    fails=("OKR-EVIDENCE-002",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-003", "OKR-EVIDENCE-005", "OKR-EVIDENCE-006"),
)
def far_divide_nothing(change: Change) -> None:
    _weights(change, lambda weights, evidence: weights.sign())


@broken(
    "the reach of a finite strength taken as the strength itself",
    fails=("OKR-EVIDENCE-002",),
    passes=(*MADE, "OKR-VERIFY-003", "OKR-EVIDENCE-001", "OKR-EVIDENCE-005", "OKR-EVIDENCE-006"),
)
def short_reach(change: Change) -> None:
    change(swaps, "REACH", 1.0)


class _Parts(SwapTally):
    """The sum of the parts' squared norms in place of that of their sum."""

    def __init__(self, hidden_size: int, experts: int) -> None:
        super().__init__(hidden_size, experts)
        self.parts = 0.0

    def add(self, evidence: SiteEvidence) -> Any:
        found = super().add(evidence)
        self.parts += float(found[2].square().sum())
        return found

    def squared_norm(self) -> float:
        return self.parts


@broken(
    "tokens taken for independent: the norms of their parts summed",
    fails=("OKR-EVIDENCE-003", "OKR-VERIFY-003"),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-005", "OKR-EVIDENCE-006"),
)
def tokens_independent(change: Change) -> None:
    _in_tests(change, "SwapTally", _Parts)


@broken(
    "one site counted twice",
    fails=("OKR-EVIDENCE-003",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-005", "OKR-EVIDENCE-006"),
)
def a_site_twice(change: Change) -> None:
    distance = swaps.distance

    def twice(sums: Sequence[float], norms: Sequence[float]) -> float:
        found: float = distance([*sums, *sums[:1]], [*norms, *norms[:1]])
        return found

    _in_tests(change, "distance", twice)


@broken(
    "one projection used for all sites",
    fails=("OKR-EVIDENCE-003", "OKR-VERIFY-002"),
    passes=(*(clause for clause in MADE if clause != "OKR-VERIFY-001"), "OKR-EVIDENCE-005", "OKR-EVIDENCE-006"),
)
def one_projection(change: Change) -> None:
    projector = tally.Projector
    _in_tests(change, "Projector", lambda site, key: projector(replace(site, stack="decoder", layer=0), key))


@broken(
    "the mean z of several traces times the root of their number",
    fails=("OKR-EVIDENCE-003",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-003", "OKR-EVIDENCE-005"),
)
def z_of_traces_added(change: Change) -> None:
    verify = okr.verify

    def verified(model: Any, traces: Any, *arguments: Any, **options: Any) -> TraceVerdict:
        pooled: TraceVerdict = verify(model, traces, *arguments, **options)
        if not isinstance(traces, list):
            return pooled
        each = [verify(model, trace, *arguments, **options).z for trace in traces]
        z = math.fsum(each) / math.sqrt(len(each))
        return _with(pooled, z, swaps.sign_sum_p(z))

    change(okr, "verify", verified)


@broken(
    "the plain normal tail without the constant",
    fails=("OKR-EVIDENCE-004",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-001", "OKR-EVIDENCE-002"),
)
def plain_normal_tail(change: Change) -> None:
    _in_tests(change, "sign_sum_p", lambda z: max(swaps.LEAST_P, float(ndtr(-z))))


@broken(
    "the smaller of the two p-values, uncorrected",
    fails=("OKR-EVIDENCE-008",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-001", "OKR-EVIDENCE-002", "OKR-EVIDENCE-003"),
)
def smaller_of_two(change: Change) -> None:
    _judged(change, lambda v: _with(v, v.z, min(v.swaps_p, v.sites_p)))


@broken(
    "p-values that end at 1 / (decoys + 1)",
    fails=("OKR-EVIDENCE-008",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-003", "OKR-EVIDENCE-003", "OKR-EVIDENCE-005"),
)
def ends_at_the_decoys(change: Change) -> None:
    _judged(change, lambda v: _with(v, v.z, max(v.p_value, 1 / (v.decoys + 1))))


@broken(
    "a threshold on the hit rate",
    fails=("OKR-EVIDENCE-008",),
    passes=(*MADE[:-1], "OKR-VERIFY-002", "OKR-VERIFY-007", "OKR-EVIDENCE-003"),
)
def judges_by_hit_rate(change: Change) -> None:
    _judged(change, lambda v: replace(v, watermarked=(v.hit_rate or 0) > 0.5))


def _sites(change: Change, edit: Callable[[TraceVerdict, list[float]], float]) -> None:
    """Another p-value of the sites, of verdicts with one below 1."""

    def edited(verdict: TraceVerdict) -> TraceVerdict:
        if verdict.sites_p == 1:
            return verdict
        sites_p = edit(verdict, [site.rank_p for site in verdict.sites if site.opportunities])
        changed = replace(verdict, sites_p=sites_p)
        return _with(changed, verdict.z, min(1.0, 2 * min(verdict.swaps_p, sites_p)))

    _judged(change, edited)


@broken(
    "the product of the ranks taken for a p-value",
    fails=("OKR-EVIDENCE-007",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-003", "OKR-EVIDENCE-005", "OKR-EVIDENCE-008"),
)
def product_of_ranks(change: Change) -> None:
    _sites(change, lambda verdict, ranks: math.prod(ranks))


@broken(
    "mid-ranks combined",
    fails=("OKR-EVIDENCE-007",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-003", "OKR-EVIDENCE-005", "OKR-EVIDENCE-008"),
)
def mid_ranks(change: Change) -> None:
    def edit(verdict: TraceVerdict, ranks: list[float]) -> float:
        return float(combine_pvalues([rank - 0.5 / (verdict.decoys + 1) for rank in ranks]).pvalue)

    _sites(change, edit)


@broken(
    "the rank of one site combined twice",
    fails=("OKR-EVIDENCE-007",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-003", "OKR-EVIDENCE-005", "OKR-EVIDENCE-008"),
)
def a_rank_twice(change: Change) -> None:
    _sites(change, lambda verdict, ranks: float(combine_pvalues([*ranks, ranks[0]]).pvalue))


@broken(
    "the smallest rank of all sites",
    fails=("OKR-EVIDENCE-007",),
    passes=(*MADE, "OKR-EVIDENCE-003", "OKR-EVIDENCE-005", "OKR-EVIDENCE-008"),
)
def smallest_rank(change: Change) -> None:
    _sites(change, lambda verdict, ranks: min(ranks))


@broken(
    "ranks that count for native routing",
    fails=("OKR-EVIDENCE-007",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-EVIDENCE-003", "OKR-EVIDENCE-008"),
)
def ranks_always_count(change: Change) -> None:
    change(import_module("okr.detection.combination"), "SHARE", 0.0)


@broken(
    "attribution without correction",
    fails=("OKR-EVIDENCE-006",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-003", "OKR-EVIDENCE-003", "OKR-EVIDENCE-005"),
)
def uncorrected_attribution(change: Change) -> None:
    change(attribution, "holm", list)


@broken(
    "attribution that replays for every key",
    fails=("OKR-EVIDENCE-006",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-003", "OKR-EVIDENCE-003", "OKR-EVIDENCE-005"),
)
def replays_for_every_key(change: Change) -> None:
    attribute = okr.attribute

    def attributed(model: Any, traces: Any, keys: Any, **options: Any) -> Any:
        for key in keys[1:]:
            attribute(model, traces, [key], **options)
        return attribute(model, traces, keys, **options)

    change(okr, "attribute", attributed)
