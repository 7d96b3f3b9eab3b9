"""Chapter VERIFY: what a verdict holds beside its counts, at the edges of what may be asked."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .. import evidence
from ..replays import replaying_once
from ..shown import shown
from ..subject import Subject
from ..verdicts import require
from . import check


def brief(trace: Any, tokens: int) -> Any:
    """The first tokens of a trace, none of them given: here the ranks at the sites decide."""
    return replace(trace, token_ids=trace.token_ids[: tokens + 1], experts=trace.experts[:tokens], prompt_length=0)


def hard_setting() -> dict[str, Any]:
    """The setting under which the first model's traces were made."""
    from .. import system

    return {"epsilon": system.epsilon_of(system.models()[0]), "zone": "boundary", "strength": math.inf}


@check("OKR-VERIFY-010")
def what_nobody_names_is_the_default(subject: Subject) -> None:
    """999 decoys, the level 0.001, and no token left out: the same whoever asks, and however."""
    from okr.detection import p_values, prefix_p_values, verify_keys
    from okr.routing import Setting

    from .. import system
    from ..system import okr

    engine, key, setting = replaying_once(system.models()[0]), system.key(), hard_setting()
    trace = replace(brief(system.traces(0)[0], 12), prompt_length=4)
    named = okr.verify(engine, trace, key, decoys=999, alpha=0.001, skip_prompt=False, **setting)
    answers = {
        "one trace": okr.verify(engine, trace, key, **setting),
        "each of several traces": okr.verify_each(engine, [trace], key, **setting).each[0],
        "each of several keys": verify_keys(engine, trace, [key], **setting)[0],
    }
    for what, got in answers.items():
        require(got == named, f"the defaults for {what}", expected=named, got=got)
    several, rest = p_values(engine, trace, [key], Setting(**setting)), Setting(**setting)
    expected = p_values(engine, trace, [key], rest, decoys=999)
    require(
        several.tolist() == expected.tolist(), "decoys for p-values of several keys", expected=expected, got=several
    )
    prefixes, right = (prefix_p_values(engine, trace, key, rest, *decoys) for decoys in ((), (999,)))
    require(prefixes.tolist() == right.tolist(), "decoys for the p-values of prefixes", expected=right, got=prefixes)


@check("OKR-VERIFY-010")
def a_million_decoys_may_be_asked_for(subject: Subject) -> None:
    """Of a trace of another model, which is what is refused then."""
    from .. import system
    from ..system import okr

    foreign = system.traces(1)[0]
    with system.refused(okr.InvalidTrace, "a trace of another model, with 1,000,000 decoys"):
        okr.verify(system.models()[0], foreign, system.key(), decoys=1_000_000, **hard_setting())


@check("OKR-VERIFY-010")
def dtypes_are_those_of_the_traces(subject: Subject) -> None:
    """Weights and autocast in which traces were made, and in which they are replayed."""
    from .. import system
    from ..system import okr

    drawn = {"seed": 1, "lengths": [3, 3, 3], "zone": "max", "epsilon": 1.0, "strength": math.inf, "skip": 0}
    updates: tuple[dict[str, Any], ...] = ({}, {"autocast": "bfloat16"}, {"dtype": "bfloat16"})
    with shown({**drawn, "kind": "keyed"}) as (_, question):
        parts = zip(question.traces, updates, strict=True)
        traces = [replace(trace, header=trace.header.model_copy(update=update)) for trace, update in parts]
        with _standing_in(question.engine, traces, question.traces):
            given = {"decoys": 1, "alpha": 0.5, **question.options}
            alone = [okr.verify(question.engine, trace, system.key(), **given).dtypes for trace in traces]
            together = okr.verify(question.engine, traces, system.key(), **given).dtypes
    under = "float32, autocast bfloat16"
    expected = [(("float32",), "float32"), ((under,), under), (("bfloat16",), "float32")]
    require(alone == expected, "the dtypes of each trace", expected=expected, got=alone)
    made, replayed = together
    require(sorted(made) == ["bfloat16", "float32", under], "the dtypes in which the traces were made", got=made)
    both = (f"float32 and {under}", f"{under} and float32")
    require(replayed in both, "the dtypes in which they are replayed", expected=both[0], got=replayed)


@contextmanager
def _standing_in(engine: Any, traces: list[Any], originals: list[Any]) -> Iterator[None]:
    """The engine shows of each trace what it shows of its original."""
    own, pairs = engine.replay, {id(trace): other for trace, other in zip(traces, originals, strict=True)}
    engine.replay = lambda trace, observe: own(pairs[id(trace)], observe)
    try:
        yield
    finally:
        engine.replay = own


@check("OKR-VERIFY-012")
def chance_is_the_mean_of_the_decoys_alone(subject: Subject) -> None:
    """However few there are: what the sites say of it adds up to the whole, and one decoy's matches are whole."""
    from .. import system
    from ..system import okr

    engine, setting = replaying_once(system.models()[0]), hard_setting()
    for traces, decoys in itertools.product((system.traces(0)[0], list(system.traces(0))), (1, 2, 9)):
        got = okr.verify(engine, traces, system.key(), decoys=decoys, **setting)
        expected = sum(site.chance_rate * site.free_slots for site in got.sites)
        chance = got.chance_rate * got.free_slots
        require(abs(chance - expected) < 1e-6, f"chance of {decoys} decoys", expected=expected, got=chance)
        whole = abs(chance * decoys - round(chance * decoys)) < 1e-6 and chance < got.hit_rate * got.free_slots
        require(whole, f"matches of {decoys} decoys", got=chance * decoys)


@check("OKR-VERIFY-009")
def corrected_p_values_are_those_of_the_closed_test(subject: Subject) -> None:
    """Holm's: the largest of n times the smallest p-value over all sets of n that hold the one to be corrected."""
    from okr.detection import Verdicts

    from .. import system
    from ..system import okr

    verdict = okr.verify(system.models()[0], brief(system.traces(0)[0], 4), system.key(), decoys=1, **hard_setting())
    for numbers in ((0.01,), (0.03, 0.01), (0.02, 0.02, 0.5), (0.2, 0.001, 0.04, 0.011), (0.9, 1.0, 0.3)):
        each = tuple(replace(verdict, p_value=p_value) for p_value in numbers)
        for place, got in enumerate(Verdicts(each, verdict).adjusted_p):
            expected = max(
                min(1.0, size * min(numbers[other] for other in part))
                for size in range(1, len(numbers) + 1)
                for part in itertools.combinations(range(len(numbers)), size)
                if place in part
            )
            evidence.require_close(f"corrected p-value {place} of {numbers}", expected, got)
