"""Chapter EVIDENCE, on where a key acted: long traces, what is told of each token, and answers in words."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .. import evidence, windows
from ..shown import shown
from ..subject import Subject
from ..verdicts import require
from . import check

_DRAWN = {"seed": 5, "zone": "boundary", "epsilon": math.inf, "strength": 0.5, "kind": "keyed", "skip": 0}


@check("OKR-EVIDENCE-009")
def the_whole_of_a_long_trace_is_a_window(subject: Subject) -> None:
    """A key that acted a little in each of 600 tokens shows most in all of them."""
    from ..system import okr

    with shown({**_DRAWN, "lengths": [600], "kind": "keyed any"}) as (secret, question):
        got = okr.locate(question.engine, question.traces[0], okr.Key(secret), alpha=0.01, **question.options)
        parts, setting = question.judged, question.setting
    weights = [evidence.swap_weights(part, setting) for part in parts]
    swapped = np.flatnonzero(np.any([weight.any(1) for weight in weights], axis=0))
    whole = slice(int(swapped[0]), int(swapped[-1]) + 1)
    tests = next(tests for start, end, tests in windows.places(600) if (start, end) == (0, 600))
    expected = tests * windows._p_value(parts, weights, whole, secret)
    evidence.require_close("the p-value of 600 tokens", expected, got.p_value)


@check("OKR-EVIDENCE-010")
def swaps_are_told_by_token_and_span(subject: Subject) -> None:
    from ..system import okr

    for skip in (0, 3):
        with shown({**_DRAWN, "lengths": [60], "skip": skip}) as (secret, question):
            key = okr.Key(secret)
            got = okr.locate(question.engine, question.traces[0], key, alpha=0.2, **question.options)
            parts, setting = question.judged, question.setting
        stated = (got.key_id, got.alpha, got.first)
        require(stated == (key.id, 0.2, skip), "key, level and first token", expected=(key.id, 0.2, skip), got=stated)
        counts = sum((evidence.swap_weights(part, setting) > 0).sum(1) for part in parts).tolist()
        require(list(got.swaps) == counts, "swaps by token", expected=counts, got=got.swaps)
        require(bool(got) and len(got.spans) > 0, "spans of a keyed trace", got=got)
        for span in got.spans:
            expected = sum(counts[span.start - skip : span.end - skip])
            require(span.swaps == expected, "swaps of a span", expected=expected, got=span)


@check("OKR-EVIDENCE-009")
def no_token_is_left_out_unasked(subject: Subject) -> None:
    from okr.detection import gather_evidence, spans_of
    from okr.routing import Setting

    from ..system import okr

    with shown({**_DRAWN, "lengths": [20], "skip": 3}) as (secret, question):
        [trace], key, setting = question.traces, okr.Key(secret), Setting(math.inf, "boundary", 0.5)
        options = {name: getattr(setting, name) for name in ("epsilon", "zone", "strength")}
        found = gather_evidence(question.engine, trace, setting, skip_prompt=False)
        for got in (
            okr.locate(question.engine, trace, key, alpha=0.2, **options),
            spans_of(found, trace, key, alpha=0.2),
        ):
            require((got.first, len(got.swaps)) == (0, 20), "tokens that are looked at", expected=20, got=got)
            expected = okr.locate(question.engine, trace, key, alpha=0.2, skip_prompt=False, **options)
            require(got == expected, "spans without a word about the prompt", expected=expected, got=got)


@check("OKR-EVIDENCE-010")
def spans_in_words(subject: Subject) -> None:
    from okr.detection import Span

    from .. import system

    found = located(system.mixed_trace())
    first, second = Span(4, 20, 1e-4, 9), Span(52, 68, 1e-3, 9)
    for spans, words in (
        ((), f"no span of {len(found.swaps)} tokens "),
        ((first,), "in 1 span of "),
        ((first, second), "in 2 spans of "),
    ):
        told = replace(found, spans=spans)
        said, places = str(told), ", ".join(f"{span.start} to {span.end - 1}" for span in spans)
        fine = words in said and said.endswith(places) and told.key_id in said and "\n" not in said
        require(fine, "spans in words", expected=(words, places), got=said)
        require(bool(told) == bool(spans), "an answer is true if there is a span", got=said)


def located(trace: Any, **options: Any) -> Any:
    """What ``okr.locate`` says of a trace of the softmax model; ``options`` replace what is asked for."""
    from .. import system
    from ..system import okr

    model = system.softmax_model()
    given = {"key": system.key(), "epsilon": system.epsilon_of(model), "zone": "boundary", "strength": math.inf}
    return okr.locate(model, trace, **{**given, **options})
