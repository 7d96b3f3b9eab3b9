"""Chapter VERIFY. Statistical checks fix their seeds; their bounds are stated beside them."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ..statistics import require_valid
from ..subject import Subject
from ..verdicts import require
from . import check


def _verdict(index: int, evidence: Any, key: Any = None, **options: Any) -> Any:
    from .. import system
    from ..system import okr

    given = {"decoys": 99, "alpha": 0.01, "model": system.models()[index], **options}
    return okr.verify(given.pop("model"), evidence, system.key() if key is None else key, **given)


def _setting(index: int) -> dict[str, Any]:
    from .. import system

    epsilon = system.epsilon_of(system.models()[index])
    return {"epsilon": epsilon, "zone": "boundary", "strength": float("inf")}


@check("OKR-VERIFY-001", lambda: st.tuples(st.integers(1, 60), st.integers(0, 200)), share=0.2)
def p_values_are_ranks(subject: Subject, drawn: tuple[int, int]) -> None:
    from .. import system
    from ..system import okr

    decoys, number = drawn
    key = okr.Key(number.to_bytes(16, "big"))
    verdict = _verdict(0, system.traces(0, keyed=False), key, decoys=decoys, alpha=0.999, **_setting(0))
    rank = verdict.rank_p * (decoys + 1)
    require(abs(rank - round(rank)) < 1e-9 and 1 <= round(rank) <= decoys + 1, "rank_p is no rank", got=verdict.rank_p)


@check("OKR-VERIFY-002")
def own_traces_match(subject: Subject) -> None:
    from .. import system

    for index in (0, 1):
        for zone, strength in (("boundary", float("inf")), ("max", float("inf")), ("boundary", 1.0)):
            verdict = _verdict(index, system.traces(index, zone=zone, strength=strength))
            name = f"model {index}, {zone}, strength {strength}"
            require(verdict.opportunities > 20, f"{name}: too few opportunities to tell", got=verdict.opportunities)
            require(
                verdict.hit_rate >= 0.99, f"{name}: hit rate of the own key", expected=">= 0.99", got=verdict.hit_rate
            )
            require(verdict.outside_zone == 0, f"{name}: slots outside the zone", expected=0, got=verdict.outside_zone)
            require(verdict.watermarked, f"{name}: not found watermarked", expected="p <= 0.01", got=verdict.p_value)
            require(verdict.rank_p <= 0.01, f"{name}: rank p-value", expected="<= 0.01", got=verdict.rank_p)


@check("OKR-VERIFY-003", sampled=True)
def other_keys_get_uniform_p_values(subject: Subject, keys: int) -> None:
    """Many keys, 19 decoys each: on a trace made under another key, on one of a single token repeated, made under
    another key too, and on the first two tokens of that.

    All states of the second are alike, so its swaps and hits come and go together: a test that takes tokens for
    independent finds p <= 0.25 for far too many keys there. In the third many keys match all there is: counting equals
    for the key finds far too many. A correct test is accused with probability under 2e-6: nine counts of ranks and nine
    of their combination, 1e-7 each, and eighteen of p-values that lie below x far less often than they may.
    """
    from .. import system
    from ..system import okr

    given = {"decoys": 19, "alpha": 0.05, "model": okr.prepare(system.models()[0]), **_setting(0)}
    long = system.monotone_trace()
    short = replace(long, token_ids=long.token_ids[:3], experts=long.experts[:2], prompt_length=0)
    for evidence in (system.traces(0)[0], long, short):
        verdicts = [_verdict(0, evidence, k, **given) for k in system.other_keys(keys)]
        require(verdicts[0].swaps > 0, "nothing was swapped in a trace made under a key")
        for name in ("p_value", "swaps_p", "sites_p", "rank_p"):
            require_valid([getattr(verdict, name) for verdict in verdicts])


@check("OKR-VERIFY-004")
def verdicts_repeat(subject: Subject) -> None:
    from .. import system

    for index in (0, 1):
        first, second = (_verdict(index, system.traces(index)) for _ in range(2))
        require(first == second, "the same question has two verdicts", expected=first, got=second)


@check("OKR-VERIFY-005")
def no_opportunity_no_evidence(subject: Subject) -> None:
    from .. import system

    for index in (0, 1):
        verdict = _verdict(index, system.traces(index), **{**_setting(index), "epsilon": 0.0})
        require(verdict.opportunities == 0, "opportunities at epsilon = 0", got=verdict.opportunities)
        fine = verdict.p_value == verdict.sites_p == verdict.rank_p == 1 and not verdict.watermarked
        require(fine, "evidence from nothing", expected="p = 1", got=verdict)


@check("OKR-VERIFY-006")
def slots_outside_the_zone_are_reported(subject: Subject) -> None:
    from .. import system

    for index, model in enumerate(system.models()):
        narrow = {**_setting(index), "epsilon": system.epsilon_of(model) / 8}
        verdict = _verdict(index, system.traces(index), **narrow)
        require(verdict.outside_zone > 0, "a trace made with a wider zone shows nothing outside the narrow one")


@check("OKR-VERIFY-007")
def several_traces_are_one_test(subject: Subject) -> None:
    from .. import system

    for index in (0, 1):
        both = system.traces(index)
        together, parts = _verdict(index, both), [_verdict(index, trace) for trace in both]
        for field in ("opportunities", "free_slots", "outside_zone", "routed"):
            total = sum(getattr(part, field) for part in parts)
            require(
                getattr(together, field) == total, f"{field} do not add", expected=total, got=getattr(together, field)
            )
        matched = sum((part.hit_rate or 0) * part.free_slots for part in parts)
        require(abs((together.hit_rate or 0) * together.free_slots - matched) < 1e-6, "matches do not add")
