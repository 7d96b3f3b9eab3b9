"""Chapter EVIDENCE, on drawn cases: what the oracle makes of what a replay shows."""

import math

import numpy as np

from .. import evidence, oracle, strategies
from ..cases import EvidenceCase, Routed, Setting
from ..subject import Subject
from ..verdicts import require
from . import check

_FINITE = (0.125, 0.25, 0.5, 1.0)


def _weights(subject: Subject, case: EvidenceCase) -> None:
    expected, got = evidence.answer(case), subject.evidence(case)
    for right, found in zip(expected.weights, got.weights, strict=True):
        require(np.allclose(found, right, rtol=1e-9, atol=0), "swap weights", expected=right, got=found)
    require(got.swaps == expected.swaps, "experts swapped in", expected=expected.swaps, got=got.swaps)


@check("OKR-EVIDENCE-001", lambda: strategies.evidence((math.inf,)))
def weights_are_those_of_the_swaps(subject: Subject, case: EvidenceCase) -> None:
    _weights(subject, case)


@check("OKR-EVIDENCE-001")
def the_first_of_equals_are_the_models_own(subject: Subject) -> None:
    """Among many experts with equal scores the native selection takes those with the lowest index. Half of the tokens
    ran it; others ran any experts."""
    numbers = np.random.default_rng(0)
    for experts in (17, 64, 130):
        setting = Setting(4, math.inf, "max")
        choice = numbers.integers(0, 4, (12, experts)).astype(np.float32)
        hidden = numbers.normal(size=(12, 3)).astype(np.float32)
        ran = np.array([oracle.native(row, 4) for row in choice.tolist()])
        ran[1::2] = numbers.permuted(np.tile(np.arange(experts), (6, 1)), axis=1)[:, :4]
        _weights(subject, EvidenceCase(bytes(16), setting, (Routed("decoder", 0, choice, hidden, ran),)))


@check("OKR-EVIDENCE-002", lambda: strategies.evidence(_FINITE))
def weights_end_at_the_reach(subject: Subject, case: EvidenceCase) -> None:
    _weights(subject, case)


@check("OKR-EVIDENCE-003", lambda: strategies.evidence((*_FINITE, math.inf)))
def z_follows_from_the_sum(subject: Subject, case: EvidenceCase) -> None:
    evidence.require_same_z("drawn case", evidence.answer(case).z, subject.evidence(case).z)


@check("OKR-EVIDENCE-004", lambda: strategies.evidence((*_FINITE, math.inf)))
def p_follows_from_z(subject: Subject, case: EvidenceCase) -> None:
    evidence.require_close("p-value", evidence.answer(case).p_value, subject.evidence(case).p_value)


@check("OKR-EVIDENCE-004")
def small_p_values_are_told_apart(subject: Subject) -> None:
    """States along the projection of the claimed key, as many entries as it takes: z is the root of half as many."""
    secret = bytes(range(16))
    for size in (4, 64, 1024, 2048, 4096):
        signs = oracle.projection(secret, stack="decoder", layer=0, hidden_size=size, num_experts=3)
        state = (signs[:, 2] - signs[:, 0]).astype(np.float32)[None]
        choice = np.array([[2.0, 1.0, 1.0]], np.float32)
        shown = Routed("decoder", 0, choice, state, np.array([[2]], np.int64))
        case = EvidenceCase(secret, Setting(1, math.inf, "max"), (shown,))
        expected, got = evidence.answer(case), subject.evidence(case)
        require(expected.p_value > 1e-300 or size > 1024, "the oracle's p-value is too small", got=expected.p_value)
        evidence.require_close(f"p-value at z = {expected.z:.2f}", expected.p_value, got.p_value)
