"""Chapter BAKE: gates with a key, sealed originals, and what weights show."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from .. import baking
from ..cases import BakeCase, Found, InspectCase, SealCase
from ..subject import Subject
from ..verdicts import require
from . import check

_PRECISION = 1e-6
_PLAIN = BakeCase(bytes(range(16)), "decoder", 1, np.ones((3, 4), np.float32), "float32", 0.1, 2.0)


def _same(expected: np.ndarray, got: np.ndarray) -> None:
    require(np.array_equal(expected.view(np.uint32), got.view(np.uint32)), "the weight", expected=expected, got=got)


@check("OKR-BAKE-001", baking.gates)
def a_weight_gets_the_key(subject: Subject, case: BakeCase) -> None:
    _same(baking.baked(case), subject.bake(case))


@check("OKR-BAKE-002", lambda: st.sampled_from((0.0, -0.1, math.inf, math.nan)))
def no_number_is_taken_for_a_strength_or_a_norm(subject: Subject, number: float) -> None:
    for case in (
        replace(_PLAIN, strength=number),
        replace(_PLAIN, norm=number),
        replace(_PLAIN, strength=number, norm=number),
    ):
        require(subject.refuses("bake", case), "a strength or norm that is no finite number above 0", got=case)


@check("OKR-BAKE-002")
def quotients_that_float32_cannot_hold_are_refused(subject: Subject) -> None:
    for strength, norm in ((1e-30, 1e20), (1e30, 1e-20)):
        case = replace(_PLAIN, strength=strength, norm=norm)
        require(subject.refuses("bake", case), "a strength over a norm that is 0 or infinite in float32", got=case)


@check("OKR-BAKE-002", lambda: st.sampled_from(("int8", "float64", math.nan, math.inf)))
def no_other_weight_is_baked(subject: Subject, given: str | float) -> None:
    case = replace(_PLAIN, dtype=given) if isinstance(given, str) else _spoilt(given)
    require(subject.refuses("bake", case), "a weight that no key can be added to", got=case)


def _spoilt(number: float) -> BakeCase:
    weight = _PLAIN.weight.copy()
    weight[1, 2] = number
    return replace(_PLAIN, weight=weight)


@check("OKR-BAKE-003", lambda: st.builds(SealCase, st.binary(min_size=16, max_size=40), st.binary(max_size=300)))
def originals_are_sealed(subject: Subject, case: SealCase) -> None:
    expected, got = baking.sealed(case), subject.seal(case)
    for what, right, found in zip(("the tag", "the sealed bytes"), expected, got, strict=True):
        require(found == right, what, expected=right.hex(), got=found.hex())


@check("OKR-BAKE-004", lambda: baking.gates(out=True))
def the_key_is_taken_out(subject: Subject, case: BakeCase) -> None:
    _same(baking.baked(case, out=True), subject.bake(case, out=True))


def _judged(subject: Subject, case: InspectCase) -> None:
    expected, got = baking.inspected(case), subject.inspect(case)
    for what in ("z", "matched_z"):
        right, found = getattr(expected, what), getattr(got, what)
        require(abs(found - right) <= _PRECISION * max(1, abs(right)), what, expected=right, got=found)
    right, found = math.log(expected.p_value), math.log(got.p_value)
    require(abs(found - right) <= 1e-4 * max(1, abs(right)), "p-value", expected=expected.p_value, got=got.p_value)


@check("OKR-BAKE-005", baking.checkpoints, share=0.5)
def weights_show_the_key(subject: Subject, case: InspectCase) -> None:
    _judged(subject, case)


@check("OKR-BAKE-005")
def directions_that_a_weight_lacks_do_not_count(subject: Subject) -> None:
    """Two experts with one row, and a gate of zeros."""
    weight = np.arange(1, 13, dtype=np.float32).reshape(2, 6) % 5
    doubled = np.concatenate([weight, weight[:1]])
    found = [Found("decoder", 0, 3, doubled), Found("decoder", 1, 2, np.zeros((2, 6), np.float32))]
    _judged(subject, InspectCase(bytes(range(16)), tuple(found)))


@check("OKR-BAKE-006", lambda: baking.checkpoints(pruned=True), share=0.5)
def experts_are_matched(subject: Subject, case: InspectCase) -> None:
    _judged(subject, case)


@check("OKR-BAKE-007", lambda: baking.checkpoints(original=True), share=0.25)
def the_original_is_subtracted(subject: Subject, case: InspectCase) -> None:
    _judged(subject, case)


@check("OKR-BAKE-007", lambda: baking.checkpoints(original=True, pruned=True), share=0.25)
def the_original_says_which_experts_are_left(subject: Subject, case: InspectCase) -> None:
    _judged(subject, case)
