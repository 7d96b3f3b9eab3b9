"""Verdicts that count, correct, refuse or speak wrongly."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import okr as package
from okr.detection import Decoys, TraceVerdict

from . import Change, broken

okr: Any = package
evidence: Any = import_module("okr.detection.evidence")
verification: Any = import_module("okr.detection.verification")
tally: Any = import_module("okr.detection.tally")
by_token: Any = import_module("okr.detection.by_token")
text: Any = import_module("okr.detection.text")
MADE = ("OKR-WEIGHT-001", "OKR-TRACE-001", "OKR-REPLAY-001", "OKR-VERIFY-001", "OKR-VERIFY-004", "OKR-VERIFY-005")


@broken("locked slots counted as free", fails=("OKR-VERIFY-012",), passes=(*MADE, "OKR-VERIFY-007", "OKR-VERIFY-010"))
def locked_slots_as_free(change: Change) -> None:
    gather = evidence._site_evidence

    def gathered(*arguments: Any) -> Any:
        found = gather(*arguments)
        return replace(found, free=found.free + found.locked.sum(-1))

    change(evidence, "_site_evidence", gathered)


@broken("tokens counted from the prompt's end", fails=("OKR-VERIFY-012",), passes=(*MADE, "OKR-EVIDENCE-004"))
def tokens_from_the_end(change: Change) -> None:
    scores = by_token.TokenTally.scores
    change(
        by_token.TokenTally,
        "scores",
        lambda self: tuple(replace(token, index=token.index + 1) for token in scores(self)),
    )


@broken("the best of several for all", fails=("OKR-VERIFY-009",), passes=(*MADE, "OKR-VERIFY-007", "OKR-VERIFY-012"))
def best_for_all(change: Change) -> None:
    judge = okr.verify_each

    def judged(*arguments: Any, **options: Any) -> Any:
        found = judge(*arguments, **options)
        return replace(found, pooled=min(found.each, key=lambda verdict: verdict.p_value))

    change(okr, "verify_each", judged)


@broken(
    "decoys that differ in signs alone",
    fails=("OKR-VERIFY-001", "OKR-VERIFY-009"),
    passes=(*MADE, "OKR-VERIFY-012", "OKR-EVIDENCE-004"),
)
def decoys_of_like_sizes(change: Change) -> None:
    draw = Decoys.draw

    def drawn(count: int, experts: int, seed: bytes) -> Any:
        images = draw(count, experts, seed)
        return Decoys(images.columns[:1].expand_as(images.columns).contiguous(), images.signs)

    change(Decoys, "draw", drawn)


@broken("any level and any number of decoys", fails=("OKR-VERIFY-010",), passes=(*MADE, "OKR-VERIFY-012"))
def any_level(change: Change) -> None:
    change(verification, "check_decoys", lambda decoys, alpha: None)


@broken("missing settings made up", fails=("OKR-VERIFY-010",), passes=(*MADE, "OKR-VERIFY-012"))
def made_up_settings(change: Change) -> None:
    setting = evidence.trace_setting

    def found(trace: Any, epsilon: Any, zone: Any, strength: Any) -> Any:
        return setting(trace, 1.0 if epsilon is None else epsilon, zone or "max", strength)

    change(evidence, "trace_setting", found)


@broken("not watermarked where nothing is seen", fails=("OKR-VERIFY-011",), passes=(*MADE, "OKR-VERIFY-012"))
def says_no_to_nothing(change: Change) -> None:
    words = TraceVerdict.__str__
    change(TraceVerdict, "__str__", lambda self: words(self).replace("cannot tell", "not watermarked"))


@broken("norms of tokens summed", fails=("OKR-EVIDENCE-011",), passes=(*MADE, "OKR-VERIFY-012", "OKR-EVIDENCE-003"))
def norms_of_tokens(change: Change) -> None:
    change(tally, "growth", lambda before, states, weights: states.square().sum(-1) * weights.square().sum(-1))


@broken("one token too late", fails=("OKR-EVIDENCE-011",), passes=(*MADE, "OKR-VERIFY-012", "OKR-EVIDENCE-003"))
def one_token_too_late(change: Change) -> None:
    needed = by_token.TokenTally.needed
    change(by_token.TokenTally, "needed", lambda self, alpha: (needed(self, alpha) or 0) + 1)


@broken("a tuple taken for one text", fails=("OKR-TEXT-013",), passes=(*MADE, "OKR-TEXT-001", "OKR-TEXT-009"))
def tuples_are_texts(change: Change) -> None:
    several = text._are_several
    change(text, "_are_several", lambda given: not isinstance(given, tuple) and several(given))
