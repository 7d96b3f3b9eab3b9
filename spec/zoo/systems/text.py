"""Detections that judge text wrongly."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import okr as package
from okr.detection import Decoys, TextVerdict, likelihood, text
from okr.engines import Text
from okr.engines.transformers import TransformersEngine
from okr.engines.transformers.calling import arguments_for, logits_of

from . import Change, broken

okr: Any = package
OTHER = ("OKR-WEIGHT-001", "OKR-ATTACH-004", "OKR-TRACE-001", "OKR-REPLAY-001", "OKR-VERIFY-004")
SOUND = (*OTHER, "OKR-TEXT-009", "OKR-TEXT-010", "OKR-TEXT-011")


def _judged(change: Change, edit: Callable[[TextVerdict], TextVerdict]) -> None:
    detect = okr.detect
    change(okr, "detect", lambda *arguments, **options: edit(detect(*arguments, **options)))


def _with_p(verdict: TextVerdict, p_value: float) -> TextVerdict:
    return replace(verdict, p_value=p_value, watermarked=p_value <= verdict.alpha)


@broken(
    "the added 1 left out", fails=("OKR-TEXT-001",), passes=(*SOUND, "OKR-TEXT-003", "OKR-TEXT-004", "OKR-TEXT-006")
)
def no_added_one_in_text(change: Change) -> None:
    _judged(change, lambda v: _with_p(v, v.p_value - 1 / (v.decoys + 1)))


@broken("a threshold on the likelihood ratio", fails=("OKR-TEXT-001",), passes=(*SOUND, "OKR-TEXT-004", "OKR-TEXT-006"))
def judges_by_ratio(change: Change) -> None:
    _judged(change, lambda v: replace(v, watermarked=v.log_likelihood_ratio > 0))


@broken(
    "scored against the unkeyed model",
    fails=("OKR-TEXT-002",),
    passes=(*SOUND, "OKR-TEXT-004", "OKR-TEXT-006"),
)
def against_the_unkeyed_model(change: Change) -> None:
    def edit(verdict: TextVerdict) -> TextVerdict:
        found = verdict.log_likelihood_ratio > 0
        return _with_p(verdict, 1 / (verdict.decoys + 1) if found and verdict.opportunities else 1.0)

    _judged(change, edit)


@broken(
    "decoys run with the claimed key",
    fails=("OKR-TEXT-003",),
    passes=(*SOUND, "OKR-TEXT-002", "OKR-TEXT-006"),
)
def decoys_run_with_the_key(change: Change) -> None:
    change(Decoys, "by_row", lambda self, claimed, first: claimed)


class _HalfEpsilon(likelihood.KeyRows):
    def __init__(self, site: Any, key: Any, setting: Any, *rest: Any) -> None:
        super().__init__(site, key, replace(setting, epsilon=setting.epsilon / 50), *rest)


@broken(
    "another epsilon than at generation",
    fails=("OKR-TEXT-003", "OKR-TEXT-007"),
    passes=(*SOUND, "OKR-TEXT-001", "OKR-TEXT-002"),
)
def other_epsilon_for_text(change: Change) -> None:
    change(likelihood, "KeyRows", _HalfEpsilon)


@broken(
    "rows that get another block's keys",
    fails=("OKR-TEXT-004",),
    passes=(*SOUND, "OKR-TEXT-005", "OKR-TEXT-006"),
)
def rows_of_another_block(change: Change) -> None:
    by_row = Decoys.by_row

    def shifted(self: Decoys, claimed: Any, first: int) -> Any:
        return by_row(self, claimed, max(0, first - 1))

    change(Decoys, "by_row", shifted)


@broken(
    "evidence found in nothing",
    fails=("OKR-TEXT-005",),
    passes=(*SOUND, "OKR-TEXT-001", "OKR-TEXT-003", "OKR-TEXT-006"),
)
def text_evidence_from_nothing(change: Change) -> None:
    _judged(change, lambda v: v if v.opportunities else _with_p(v, 1 / (v.decoys + 1)))


@broken(
    "a hit rate of replayed text",
    fails=("OKR-TEXT-006",),
    passes=(*SOUND, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-003"),
)
def hit_rate_of_text(change: Change) -> None:
    _judged(change, lambda v: replace(v, hit_rate=1.0, chance_rate=0.5))


@broken(
    "the prompt judged as well",
    fails=("OKR-TEXT-007",),
    passes=(*SOUND, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-006"),
)
def judges_the_prompt(change: Change) -> None:
    make = text._text
    change(text, "_text", lambda tokens, length, *rest: replace(make(tokens, length, *rest), prompt_length=1))


@broken(
    "predictions off by one",
    fails=("OKR-TEXT-003", "OKR-TEXT-007"),
    passes=(*SOUND, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-006"),
)
def predictions_off_by_one(change: Change) -> None:
    def log_p(self: Any, given: Any, rows: int, temperature: float) -> Any:
        other = Text(given.tokens.roll(-1), given.prompt_length, given.source)
        inputs, targets = given.tokens[:-1].expand(rows, -1), other.tokens[given.prompt_length :]
        found = logits_of(self.model(**arguments_for(self.model, inputs, use_cache=False)))
        found = found[:, given.prompt_length - 1 :].log_softmax(-1)
        return found.gather(-1, targets.expand(rows, -1)[..., None])[..., 0].double()

    change(TransformersEngine, "log_p", log_p)


@broken(
    "the first of several texts",
    fails=("OKR-TEXT-008",),
    passes=(*SOUND[:-3], "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-011"),
)
def first_text_only(change: Change) -> None:
    read = text.as_texts
    change(text, "as_texts", lambda *arguments: read(*arguments)[:1])


@broken(
    "ids clipped to the vocabulary",
    fails=("OKR-TEXT-009",),
    passes=(*OTHER, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-010"),
)
def clips_ids(change: Change) -> None:
    row = text._row

    def clipped(name: str, tokens: Any, vocabulary: int) -> Any:
        return row(name, np.clip(np.asarray(tokens), 0, vocabulary - 1), vocabulary)

    change(text, "_row", clipped)


@broken("a single token judged", fails=("OKR-TEXT-009",), passes=(*OTHER, "OKR-TEXT-001", "OKR-TEXT-002"))
def judges_one_token(change: Change) -> None:
    make = text._text

    def doubled(tokens: Any, *rest: Any) -> Any:
        return make(list(tokens) * 2 if len(tokens) == 1 else tokens, *rest)

    change(text, "_text", doubled)


@broken(
    "text longer than the model cut short",
    fails=("OKR-TEXT-009",),
    passes=(*OTHER, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-010"),
)
def cuts_long_text(change: Change) -> None:
    make = text._text
    change(text, "_text", lambda tokens, *rest: make(tokens[:128], *rest))


@broken("NaN judged", fails=("OKR-TEXT-009",), passes=(*OTHER, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-010"))
def judges_nan(change: Change) -> None:
    change(likelihood, "check_finite", lambda log_p: None)


@broken(
    "a handful of tokens judged",
    fails=("OKR-TEXT-012",),
    passes=(*SOUND, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-003"),
)
def judges_few_tokens(change: Change) -> None:
    change(text, "LEAST_TOKENS", 1)


@broken(
    "evaluation mode left on", fails=("OKR-TEXT-011",), passes=(*OTHER, "OKR-TEXT-001", "OKR-TEXT-006", "OKR-TEXT-008")
)
def text_leaves_evaluation_mode(change: Change) -> None:
    detect = okr.detect

    def detected(model: Any, *arguments: Any, **options: Any) -> Any:
        found = detect(model, *arguments, **options)
        (model if isinstance(model, torch.nn.Module) else model.model).eval()
        return found

    change(okr, "detect", detected)


@broken("other keys' statistics cut off below", fails=("OKR-TEXT-002",), passes=(*SOUND, "OKR-TEXT-006"))
def cuts_the_decoys(change: Change) -> None:
    statistic = text.statistic

    def cut(log_p: Any) -> Any:
        found = statistic(log_p)
        return torch.cat([found[:1], found[1:].clamp(max=float(found.median()))])

    change(text, "statistic", cut)


@broken(
    "too few decoys accepted",
    fails=("OKR-TEXT-010",),
    passes=(*OTHER, "OKR-TEXT-001", "OKR-TEXT-002", "OKR-TEXT-009", "OKR-VERIFY-001"),
)
def accepts_few_decoys(change: Change) -> None:
    change(text, "check_rank_test", lambda decoys, alpha: None)
