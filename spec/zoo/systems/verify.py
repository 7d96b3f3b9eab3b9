"""Verifications that judge traces wrongly."""

import random
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from scipy.special import ndtr

import okr as package
from okr.detection import Decoys, TraceVerdict, verification

from . import Change, broken

okr: Any = package
evidence: Any = import_module("okr.detection.evidence")
tally: Any = import_module("okr.detection.tally")
counting: Any = import_module("okr.detection.counting")
MADE = ("OKR-WEIGHT-001", "OKR-ATTACH-004", "OKR-TRACE-001", "OKR-TRACE-005", "OKR-REPLAY-001", "OKR-REPLAY-002")


def _judged(change: Change, edit: Callable[[TraceVerdict], TraceVerdict]) -> None:
    verify = okr.verify
    change(okr, "verify", lambda *arguments, **options: edit(verify(*arguments, **options)))


def _with_rank(change: Change, edit: Callable[[TraceVerdict], float]) -> None:
    _judged(change, lambda verdict: replace(verdict, rank_p=edit(verdict)))


@broken(
    "the added 1 left out",
    fails=("OKR-VERIFY-001",),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-004", "OKR-VERIFY-006", "OKR-EVIDENCE"),
)
def no_added_one(change: Change) -> None:
    _with_rank(change, lambda v: v.rank_p - 1 / (v.decoys + 1))


@broken("divided by the decoys alone", fails=("OKR-VERIFY-001",), passes=(*MADE, "OKR-VERIFY-004", "OKR-EVIDENCE"))
def divides_by_decoys(change: Change) -> None:
    _with_rank(change, lambda v: v.rank_p * (v.decoys + 1) / v.decoys)


@broken(
    "matches of tokens taken for independent",
    fails=("OKR-VERIFY-001", "OKR-VERIFY-003"),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-004", "OKR-EVIDENCE"),
)
def binomial(change: Change) -> None:
    def edit(verdict: TraceVerdict) -> float:
        if not verdict.opportunities:
            return verdict.rank_p
        hits, chance = verdict.hit_rate or 0.0, verdict.chance_rate or 0.5
        spread = (max(chance * (1 - chance), 1e-9) / verdict.free_slots) ** 0.5
        return float(ndtr((chance - hits) / spread))

    _with_rank(change, edit)


@broken(
    "equals counted for the key",
    fails=("OKR-VERIFY-001", "OKR-VERIFY-003"),
    passes=(*MADE, "OKR-VERIFY-002", "OKR-VERIFY-004"),
)
def equals_for_the_key(change: Change) -> None:
    change(tally, "at_least_as_good", lambda matched, support, claimed: matched > claimed[0])


@broken("decoys that all prefer the same", fails=("OKR-VERIFY-001", "OKR-VERIFY-003"), passes=(*MADE, "OKR-VERIFY-004"))
def decoys_of_another_law(change: Change) -> None:
    scores = Decoys.scores

    def others(self: Decoys, claimed: Any, first: int, last: int) -> Any:
        found = scores(self, claimed, first, last)
        start = max(1, first) - first
        found[:, start:] = torch.arange(found.shape[-1], 0, -1, dtype=found.dtype)
        return found

    change(Decoys, "scores", others)
    change(counting, "in_memory", lambda scores: False)  # the compiled loops draw no scores


@broken("decoys that are the claimed key", fails=("OKR-VERIFY-001", "OKR-VERIFY-002"), passes=(*MADE, "OKR-VERIFY-004"))
def decoys_alike(change: Change) -> None:
    def draw(count: int, experts: int, seed: bytes) -> Decoys:
        columns = torch.arange(experts).expand(count + 1, -1).contiguous()
        return Decoys(columns, torch.ones(count + 1, experts))

    change(Decoys, "draw", draw)


@broken(
    "half the epsilon", fails=("OKR-VERIFY-002",), passes=(*MADE, "OKR-VERIFY-001", "OKR-VERIFY-003", "OKR-VERIFY-004")
)
def half_epsilon(change: Change) -> None:
    setting = evidence.trace_setting

    def halved(*arguments: Any) -> Any:
        found = setting(*arguments)
        return replace(found, epsilon=found.epsilon / 2)

    change(evidence, "trace_setting", halved)


@broken(
    "another layer's projection",
    fails=("OKR-VERIFY-002",),
    passes=(*MADE, "OKR-VERIFY-003", "OKR-VERIFY-004"),
)
def other_layers_projection(change: Change) -> None:
    projector = tally.Projector
    change(tally, "Projector", lambda site, key: projector(replace(site, layer=site.layer + 1), key))


@broken("strength left out", fails=("OKR-VERIFY-002",), passes=(*MADE, "OKR-VERIFY-003", "OKR-VERIFY-004"))
def strength_left_out(change: Change) -> None:
    setting = evidence.trace_setting
    change(evidence, "trace_setting", lambda *arguments: replace(setting(*arguments), strength=float("inf")))


@broken(
    "decoys drawn anew each time",
    fails=("OKR-VERIFY-004",),
    passes=(*MADE, "OKR-VERIFY-001", "OKR-VERIFY-002", "OKR-VERIFY-003"),
)
def other_decoys_each_time(change: Change) -> None:
    numbers = random.Random(0)
    change(verification, "site_seed", lambda seed, path: numbers.randbytes(32))


@broken(
    "evidence found in nothing",
    fails=("OKR-VERIFY-005",),
    passes=(*MADE, "OKR-VERIFY-001", "OKR-VERIFY-002", "OKR-VERIFY-003"),
)
def evidence_from_nothing(change: Change) -> None:
    def edit(verdict: TraceVerdict) -> TraceVerdict:
        return verdict if verdict.opportunities else replace(verdict, p_value=1e-300, watermarked=True)

    _judged(change, edit)


@broken(
    "slots outside the zone not counted", fails=("OKR-VERIFY-006",), passes=(*MADE, "OKR-VERIFY-001", "OKR-VERIFY-002")
)
def ignores_outside(change: Change) -> None:
    site_evidence = evidence._site_evidence
    change(evidence, "_site_evidence", lambda *arguments: replace(site_evidence(*arguments), outside=0))


def _several(change: Change, choose: Callable[[list[TraceVerdict]], TraceVerdict]) -> None:
    verify = okr.verify

    def verified(model: Any, traces: Any, *arguments: Any, **options: Any) -> TraceVerdict:
        if not isinstance(traces, list):
            found: TraceVerdict = verify(model, traces, *arguments, **options)
            return found
        return choose([verify(model, trace, *arguments, **options) for trace in traces])

    change(okr, "verify", verified)


@broken(
    "the best of several traces",
    fails=("OKR-VERIFY-007",),
    passes=(*MADE, "OKR-VERIFY-001", "OKR-VERIFY-003", "OKR-VERIFY-004"),
)
def best_of_several(change: Change) -> None:
    _several(change, lambda found: min(found, key=lambda verdict: verdict.p_value))


@broken(
    "the first of several traces",
    fails=("OKR-VERIFY-007",),
    passes=(*MADE, "OKR-VERIFY-001", "OKR-VERIFY-003", "OKR-VERIFY-004"),
)
def first_of_several(change: Change) -> None:
    _several(change, lambda found: found[0])
