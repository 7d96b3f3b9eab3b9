"""Chapter EVIDENCE, on which of several keys acted: each key's p-value, and the answer in words."""

import math
from typing import Any

import numpy as np

from .. import evidence
from ..replays import replaying_once
from ..shown import shown
from ..subject import Subject
from ..verdicts import require
from . import check
from .verify_fields import brief, hard_setting

_DECOYS, _RANKED = 9_999, 4


def _require_p_values(name: str, engine: Any, traces: list[Any], keys: list[Any], options: dict[str, Any]) -> Any:
    """The p-values of the keys with the largest z are those of verification, the others have no ranks."""
    from ..system import okr

    calls: list[int] = []
    found = okr.attribute(engine, traces, keys, advance=calls.append, **options)
    require(calls == [1] * len(keys), f"{name}: steps that are told", expected=[1] * len(keys), got=calls)
    verdicts = [okr.verify(engine, traces, key, decoys=_DECOYS, **options) for key in keys]
    ranked = sorted(range(len(keys)), key=lambda place: -verdicts[place].z)[:_RANKED]
    for place, (verdict, candidate) in enumerate(zip(verdicts, found.candidates, strict=True)):
        expected = verdict.p_value if place in ranked else min(1.0, 2 * verdict.swaps_p)
        evidence.require_close(f"{name}: p-value of key {place}", expected, candidate.p_value)
    require(found.opportunities == verdicts[0].opportunities, f"{name}: opportunities", got=found.opportunities)
    return found


@check("OKR-EVIDENCE-006")
def p_values_are_those_of_verification(subject: Subject) -> None:
    """Of traces so short that the ranks at the sites decide, with fewer keys than are ranked and with more."""
    from .. import system

    engine, others = replaying_once(system.models()[0]), system.other_keys(13)
    for tokens, keys in (
        (5, [*(others[place] for place in (1, 12, 7, 3, 4)), system.key()]),
        (8, [system.key(), *others[5:12]]),
        (5, others[:3]),
    ):
        traces = [brief(system.traces(0)[0], tokens)]
        _require_p_values(f"{tokens} tokens", engine, traces, keys, {"alpha": 0.01, **hard_setting()})


@check("OKR-EVIDENCE-006")
def the_smallest_corrected_p_value_decides(subject: Subject) -> None:
    """A key is named if that is alpha, and none if it is any larger; the words say so."""
    from .. import system
    from ..system import okr

    engine, keys = replaying_once(system.models()[0]), [*system.other_keys(2), system.key()]
    traces, setting = [brief(system.traces(0)[0], 6)], hard_setting()
    least = min(c.adjusted_p for c in okr.attribute(engine, traces, keys, alpha=0.5, **setting).candidates)
    require(0 < least < 1, "a trace that shows something", got=least)
    for alpha, named in ((least, True), (math.nextafter(least, 0), False)):
        found = okr.attribute(engine, traces, keys, alpha=alpha, **setting)
        best = min(found.candidates, key=lambda candidate: candidate.p_value)
        expected = best.key_id if named else None
        require(found.key_id == expected, f"the key that is named at {alpha!r}", expected=expected, got=found.key_id)
        require(bool(found) == named, "an attribution is true if a key is named", expected=named, got=bool(found))
        said, words = str(found), f"key {best.key_id}: " if named else "none of 3 keys: "
        fine = said.startswith(words) and f" = {best.adjusted_p:.3g} " in said and "\n" not in said
        require(fine, "an attribution in words", expected=words, got=said)
    nothing = okr.attribute(engine, traces, keys, **{**setting, "epsilon": 0.0})
    said = str(nothing)
    require(said.split() == ["cannot", "tell:", "no", "opportunities"], "an attribution of nothing", got=said)
    require(nothing.key_id is None and not nothing, "a key is named for nothing", got=nothing)


_FEW = (
    ("one swap, of 0.19 that random keys would make", 0.125, 1, 34, "keyed"),
    ("one swap, of 1.7", 0.5, 3, 2, "keyed"),
    ("two swaps, of 2.7", math.inf, 1, 1, "keyed"),
    ("eleven swaps, of 8.8", math.inf, 3, 0, "keyed"),
    ("no swap", 1.0, 3, 24, "native"),
    ("one swap, of 4, a quarter", 1.0, 3, 24, "one more"),
)
"""What is shown, the strength, the number of tokens, the seed, and how tokens were routed."""


@check("OKR-EVIDENCE-007")
def few_swaps_are_judged_under_several_keys_as_alone(subject: Subject) -> None:
    """Where it matters whether enough was swapped for the ranks at the sites to count."""
    from okr.detection import p_values
    from okr.routing import Setting

    from ..system import okr

    for name, strength, tokens, seed, kind in _FEW:
        drawn = {"seed": seed, "lengths": [tokens], "zone": "boundary", "epsilon": math.inf, "skip": 0}
        with shown({**drawn, "strength": strength, "kind": "native" if kind == "one more" else kind}) as (
            secret,
            question,
        ):
            if kind == "one more":
                first = question.parts[0][0]
                first.experts[-1] = np.argsort(-first.choice[-1], kind="stable")[[0, 2]]
            keys, [trace] = [okr.Key(secret), okr.Key(b"another secret!!")], question.traces
            got = p_values(question.engine, trace, keys, Setting(math.inf, "boundary", strength), decoys=99)
            for key, p_value in zip(keys, got, strict=True):
                right = okr.verify(question.engine, trace, key, decoys=99, alpha=0.5, **question.options)
                evidence.require_close(f"{name}: p-value", right.p_value, float(p_value))


@check("OKR-EVIDENCE-008")
def a_p_value_of_alpha_is_small_enough(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    engine, setting = replaying_once(system.models()[0]), hard_setting()
    for tokens in (4, 9):
        trace = brief(system.traces(0)[0], tokens)
        p_value = okr.verify(engine, trace, system.key(), decoys=99, **setting).p_value
        require(0 < p_value < 1, "a trace that shows something", got=p_value)
        for alpha, expected in ((p_value, True), (math.nextafter(p_value, 0), False)):
            got = okr.verify(engine, trace, system.key(), decoys=99, alpha=alpha, **setting)
            require(got.watermarked == expected, f"p = {p_value!r} at alpha = {alpha!r}", expected=expected, got=got)
