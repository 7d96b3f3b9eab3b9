"""Chapter VERIFY: questions asked together, questions that are refused, and answers in words."""

import json
import math
from typing import Any

import numpy as np

from .. import evidence
from ..replays import replaying_once
from ..shown import shown
from ..subject import Subject
from ..verdicts import require
from . import check


def _holm(p_values: list[float]) -> list[float]:
    """Holm's correction, from its definition: the largest (n - j) p_(j) up to each place in the order."""
    ranked = sorted(p_values)
    return [
        min(1.0, max((len(ranked) - place) * p for place, p in enumerate(ranked) if p <= value)) for value in p_values
    ]


def _counting(engine: Any, replayed: list[Any]) -> Any:
    """The engine, which notes every trace that it replays."""
    replay = engine.replay

    def counted(trace: Any, observe: Any) -> None:
        replayed.append(trace)
        replay(trace, observe)

    engine.replay = counted
    return engine


@check("OKR-VERIFY-009")
def several_verdicts_are_those_one_by_one(subject: Subject) -> None:
    """On keyed and native traces at once, under the key and under another, each trace replayed once."""
    from .. import system
    from ..system import okr

    native, keyed = system.traces(0, keyed=False)[0], list(system.traces(0))
    given = {"epsilon": system.epsilon_of(system.models()[0]), "zone": "boundary", "strength": math.inf, "alpha": 0.01}
    for traces in ([*keyed, native], keyed, [native]):
        for key in (system.key(), system.other_keys(1)[0]):
            for options in ({}, {"skip_prompt": True, "decoys": 19, "alpha": 0.2}):
                replayed, calls = list[Any](), list[int]()
                engine = _counting(okr.prepare(system.models()[0]), replayed)
                try:
                    found = okr.verify_each(engine, traces, key, advance=calls.append, **{**given, **options})
                finally:
                    del engine.replay
                _require_each(found, engine, traces, key, {**given, **options})
                require(len(replayed) == len(traces), "replays", expected=len(traces), got=len(replayed))
                require(calls == [1] * len(traces), "steps that are told", expected=[1] * len(traces), got=calls)


def _require_each(found: Any, engine: Any, traces: list[Any], key: Any, options: dict[str, Any]) -> None:
    from ..system import okr

    alone = [okr.verify(engine, trace, key, **options) for trace in traces]
    require(list(found.each) == alone, "the verdicts on each trace", expected=alone, got=found.each)
    together = okr.verify(engine, traces, key, **options)
    require(found.pooled == together, "the pooled verdict", expected=together, got=found.pooled)
    every = all(verdict.watermarked for verdict in alone)
    require(found.every == every, "whether every one was found", expected=every, got=found.every)
    expected = _holm([verdict.p_value for verdict in alone])
    for right, got in zip(expected, found.adjusted_p, strict=True):
        evidence.require_close("corrected p-value", right, got)


@check("OKR-VERIFY-009")
def several_keys_have_the_verdicts_one_by_one(subject: Subject) -> None:
    """With one replay: whole verdicts under a few keys, and p-values alone, on keyed and native traces."""
    from okr.detection import p_values, verify_keys
    from okr.routing import Setting

    from .. import system
    from ..system import okr

    keys = [*system.other_keys(6), system.key()]
    for index, keyed in ((0, True), (1, True), (0, False)):
        model, replayed = system.models()[index], list[Any]()
        given: dict[str, Any] = {"epsilon": system.epsilon_of(model), "zone": "boundary", "strength": math.inf}
        trace = system.traces(index, keyed=keyed)[0]
        engine = _counting(replaying_once(model), replayed)
        alone = [okr.verify(engine, trace, key, decoys=49, **given) for key in keys]
        replayed.clear()
        got = verify_keys(engine, trace, keys, decoys=49, **given)
        require(got == alone, "verdicts under several keys", expected=alone, got=got)
        numbers = p_values(engine, trace, keys, Setting(**given), decoys=49)
        for verdict, p_value in zip(alone, numbers, strict=True):
            evidence.require_close("p-value among those of several keys", verdict.p_value, float(p_value))
        require(len(replayed) == 2, "replays for two questions about seven keys", expected=2, got=len(replayed))


@check("OKR-VERIFY-009")
def chance_is_what_random_keys_match(subject: Subject) -> None:
    """The chance rate of many decoys is the mean hit rate of random keys, here of standard normal key scores; the key
    that made all there is ranks before them."""
    from ..system import okr

    numbers = np.random.default_rng(0)
    for zone, epsilon, strength in (("boundary", 1.0, math.inf), ("max", math.inf, math.inf), ("max", 2.5, 1.0)):
        drawn = {"seed": 3, "lengths": [40], "zone": zone, "epsilon": epsilon, "strength": strength, "skip": 0}
        for kind, decoys in (("keyed", 999), ("any", 999), ("keyed", 2600)):
            with shown({**drawn, "kind": kind}) as (secret, question):
                given = {"alpha": 0.5, "decoys": decoys, **question.options}
                got = okr.verify(question.engine, question.traces, okr.Key(secret), **given)
                expected = _chance(question, numbers)
            first = got.rank_p == 1 / (decoys + 1) and got.decoys == decoys
            require(
                first or kind == "any", "the rank of the key that made it", expected=1 / (decoys + 1), got=got.rank_p
            )
            near = abs((got.chance_rate or 0) - expected) < 0.03
            require(near, f"chance rate, {zone}, {kind}", expected=expected, got=got.chance_rate)


def _chance(question: Any, numbers: Any, draws: int = 60) -> float:
    """The share of the free slots that hold what random key scores prefer."""
    from .. import oracle

    hits = slots = 0
    setting = question.setting
    for part in question.judged:
        for row, ran in zip(part.choice.tolist(), part.experts.tolist(), strict=True):
            zone = oracle.zones(row, [0.0] * len(row), setting)[0]
            free = setting.top_k - len(zone.locked)
            if not zone.opportunity:
                continue
            for scores in numbers.standard_normal((draws, len(row))).tolist():
                hard = math.isinf(setting.strength)
                wishes = {e: scores[e] if hard else row[e] + setting.strength * scores[e] for e in zone.pool}
                hits += len(set(sorted(wishes, key=wishes.__getitem__, reverse=True)[:free]) & set(ran))
            slots += draws * free
    return hits / slots


@check("OKR-VERIFY-010")
def what_cannot_be_judged_is_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model, key, traces = system.models()[0], system.key(), list(system.traces(0))
    native = system.traces(0, keyed=False)
    for alpha in (0, 1, -0.1, 1.5, math.nan, math.inf, True, "0.01", None):
        for judge in (okr.verify, okr.verify_each):
            with system.refused(okr.InvalidSetting, f"alpha = {alpha!r}"):
                judge(model, traces, key, alpha=alpha)
        with system.refused(okr.InvalidSetting, f"attribution at alpha = {alpha!r}"):
            okr.attribute(model, traces, [key], alpha=alpha)
    for decoys in (0, -1, 1_000_001, True, 9.0, "9", None):
        with system.refused(okr.InvalidSetting, f"{decoys!r} decoys"):
            okr.verify(model, traces, key, decoys=decoys)
    for given in ([], None, 7, "trace", [traces[0], None], [[traces[0]]]):
        for judge in (okr.verify, okr.verify_each):
            with system.refused(okr.InvalidTrace, f"{type(given).__name__} in place of traces"):
                judge(model, given, key)
        with system.refused(okr.InvalidTrace, f"{type(given).__name__} in place of traces, to attribute"):
            okr.attribute(model, given, [key])
    for other in (None, system.SECRET, "key"):
        for judge in (okr.verify, okr.verify_each):
            with system.refused(okr.InvalidKey, f"{type(other).__name__} in place of a key"):
                judge(model, traces, other)
    for keys in ([], [key, key], [key, None], [system.SECRET], None):
        with system.refused(okr.InvalidKey, f"{len(keys or ())} keys to attribute to"):
            okr.attribute(model, traces, keys)
    setting = {"epsilon": 1.0, "zone": "boundary", "strength": 1.0}
    for name, wrong in (("epsilon", -1.0), ("zone", "middle"), ("strength", -1.0), ("epsilon", math.nan)):
        with system.refused(okr.InvalidSetting, f"{name} = {wrong}"):
            okr.verify(model, traces, key, **{**setting, name: wrong})
    for name in setting:
        with system.refused(okr.InvalidSetting, f"a native trace without {name}"):
            okr.verify(model, native, key, **{n: value for n, value in setting.items() if n != name})
    with system.accepted("the least and the most that may be asked"):
        okr.verify(model, traces, key, decoys=1, alpha=1e-300)
        okr.verify(model, traces[0], key, decoys=1, alpha=1 - 1e-12)
        okr.verify(model, tuple(traces), key, decoys=2, alpha=0.5)


@check("OKR-VERIFY-010")
def what_is_not_said_is_in_the_header(subject: Subject) -> None:
    """Each of the setting's parts is the header's, unless another is named."""
    from .. import system
    from ..system import okr

    engine, key = replaying_once(system.models()[0]), system.key()
    [trace, _] = system.traces(0, strength=1.0)
    own = {"epsilon": trace.header.epsilon, "zone": trace.header.zone, "strength": trace.header.strength}
    for name, other in (
        ("epsilon", 0.25),
        ("zone", "max"),
        ("strength", 0.1),
        ("epsilon", 0.0),
        ("strength", math.inf),
    ):
        named = okr.verify(engine, trace, key, decoys=9, **{name: other})
        full = okr.verify(engine, trace, key, decoys=9, **{**own, name: other})
        require(named == full, f"{name} = {other}, the rest from the header", expected=full, got=named)
    bare = okr.verify(engine, trace, key, decoys=9)
    require(bare == okr.verify(engine, trace, key, decoys=9, **own), "the setting of the header", got=bare)
    require(bare.dtypes == (("float32",), "float32"), "the dtypes", got=bare.dtypes)
    stated = (bare.key_id, bare.decoys, bare.alpha, bare.exact)
    require(stated == (key.id, 9, 0.001, True), "what a verdict repeats", got=stated)


@check("OKR-VERIFY-011")
def words_say_what_the_numbers_say(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model, key, other = system.models()[0], system.key(), system.other_keys(1)[0]
    keyed, native = list(system.traces(0)), list(system.traces(0, keyed=False))
    setting = {"epsilon": system.epsilon_of(model), "zone": "boundary", "strength": math.inf}
    for traces, claimed, options in (
        (keyed, key, {}), (keyed, other, {}), (native, key, {}), (native, key, {"epsilon": 0.0}),
        (keyed, key, {"alpha": 1e-12}), (keyed[0], key, {"alpha": 0.01}),
    ):  # fmt: skip
        verdict = okr.verify(model, traces, claimed, **{**setting, **options})
        _require_words(verdict, str(verdict))
        several = traces if isinstance(traces, list) else [traces]
        found = okr.verify_each(model, several, claimed, **{**setting, **options})
        _require_several(found, len(several))


def _require_words(verdict: Any, said: str) -> None:
    require("\n" not in said, "a verdict of more than one line", got=said)
    require(verdict.key_id in said, "the key is not named", expected=verdict.key_id, got=said)
    unknown, negative, positive = "cannot tell" in said, "not watermarked" in said, said.startswith("watermarked")
    expected = (not verdict.opportunities, bool(verdict.opportunities) and not verdict.watermarked, verdict.watermarked)
    require((unknown, negative, positive) == expected, "the verdict in words", expected=verdict, got=said)
    if not unknown:
        for number in (f"p = {verdict.p_value:.3g}", f"{verdict.alpha:g}", f"z = {verdict.z:.2f}"):
            require(number in said, "a number in words", expected=number, got=said)
    require(bool(verdict) == verdict.watermarked, "a verdict is true if the key was found", got=bool(verdict))
    told = json.loads(json.dumps(verdict.as_dict()))
    require(told["p_value"] == verdict.p_value and told["key_id"] == verdict.key_id, "a verdict as JSON", got=told)
    require(len(told["tokens"]) == len(verdict.tokens), "tokens of a verdict as JSON")
    require(len(repr(verdict)) < 4000, "a repr of all tokens", got=len(repr(verdict)))


def _require_several(found: Any, count: int) -> None:
    """The pooled verdict claims no more than that at least one trace was made under the key."""
    first, pooled = str(found).splitlines()
    ones = sum(verdict.watermarked for verdict in found.each)
    corrected = sum(p <= found.pooled.alpha for p in found.adjusted_p)
    require(first.startswith(f"{ones} of {count} "), "how many were found, in words", expected=ones, got=first)
    require(f"; {corrected} after" in first, "how many after correction, in words", expected=corrected, got=first)
    claims = "at least one of them was made" in pooled
    require(claims == found.pooled.watermarked, "the pooled verdict in words", expected=found.pooled, got=pooled)
    unknown = "cannot tell" in pooled
    require(unknown == (not found.pooled.opportunities), "evidence from nothing, in words", got=pooled)
