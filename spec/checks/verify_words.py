"""Chapter VERIFY: verdicts in words, word by word, and what cannot be located."""

import math
from dataclasses import replace
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .evidence_spans import located
from .verify_fields import brief


def _verdict() -> Any:
    from .. import system
    from ..system import okr

    model = system.models()[0]
    given = {"epsilon": system.epsilon_of(model), "zone": "boundary", "decoys": 1, "alpha": 0.05}
    return okr.verify(model, brief(system.traces(0)[0], 6), system.key(), **given)


@check("OKR-VERIFY-011")
def words_are_those_of_the_answer(subject: Subject) -> None:
    """Of verdicts with one other answer each: whether the key was found, and after how many tokens."""
    verdict = _verdict()
    require(verdict.opportunities > 0, "a trace without opportunities", got=verdict)
    key = f" under key {verdict.key_id}: p = "
    for found, words, pooled in (
        (True, "watermarked", "at least one of them was made"),
        (False, "not watermarked", "nothing shows that any of them was made"),
    ):
        told = replace(verdict, watermarked=found)
        require(str(told).startswith(words + key), "the answer in words", expected=words + key, got=str(told))
        several = told.on_several(3)
        require(f": {pooled}{key}" in several, "the pooled answer in words", expected=pooled + key, got=several)
    for needed, words in ((1, "1 token sufficed"), (7, "7 tokens sufficed"), (None, "")):
        said = str(replace(verdict, tokens_needed=needed))
        fine = said.endswith(f" {words}") if words else "suffice" not in said
        require(fine, f"in words that {needed} tokens suffice", expected=words, got=said)


@check("OKR-VERIFY-011")
def those_after_correction_are_counted(subject: Subject) -> None:
    """Of one trace and of several, one of whose p-values is alpha."""
    from okr.detection import Verdicts

    verdict = _verdict()
    for numbers, found, corrected in (
        ((0.05,), 1, 1), ((0.075,), 0, 0), ((0.0499,), 1, 1), ((0.025, 0.9), 1, 1), ((0.03, 0.03), 2, 0),
        ((0.0125, 0.06, 0.02, 0.9), 2, 1), ((0.01, 0.01, 0.01), 3, 3),
    ):  # fmt: skip
        each = tuple(replace(verdict, p_value=p_value, watermarked=p_value <= 0.05) for p_value in numbers)
        first = str(Verdicts(each, verdict)).splitlines()[0]
        right = first.startswith(f"{found} of {len(numbers)} ") and f"; {corrected} after " in first
        require(right, f"how many were found of {numbers}", expected=(found, corrected), got=first)


@check("OKR-VERIFY-010")
def what_cannot_be_located_is_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    trace = system.traces(0)[0]
    for given in ([trace], None, 7, "trace"):
        with system.refused(okr.InvalidTrace, f"{type(given).__name__} in place of one trace"):
            located(given)
    with system.refused(okr.InvalidKey, "a secret in place of a key"):
        located(trace, key=system.SECRET)
    for alpha in (0, 1, math.nan, True, None):
        with system.refused(okr.InvalidSetting, f"alpha = {alpha!r}"):
            located(trace, alpha=alpha)
