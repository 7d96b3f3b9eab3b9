"""Chapter TEXT. Statistical checks fix their seeds; their bounds are stated beside them."""

from typing import Any

from hypothesis import strategies as st

from ..statistics import require_valid
from ..subject import Subject
from ..verdicts import Violation, require
from . import check


def _verdict(index: int, texts: Any, key: Any = None, **options: Any) -> Any:
    from .. import system
    from ..system import okr

    model = system.outspoken_models()[index]
    given = {"epsilon": system.epsilon_of(model), "zone": "boundary", "decoys": 99, "alpha": 0.01, **options}
    return okr.detect(model, texts, system.key() if key is None else key, **given)


@check("OKR-TEXT-001", lambda: st.tuples(st.integers(1, 20), st.integers(0, 200)), share=0.1)
def p_values_are_ranks(subject: Subject, drawn: tuple[int, int]) -> None:
    from .. import system
    from ..system import okr

    decoys, number = drawn
    text = system.tokens(1, 24, number)[0].tolist()
    verdict = _verdict(0, text, okr.Key(number.to_bytes(16, "big")), decoys=decoys, alpha=0.999)
    rank = verdict.p_value * (decoys + 1)
    require(abs(rank - round(rank)) < 1e-9 and 1 <= round(rank) <= decoys + 1, "p is no rank", got=verdict.p_value)
    require(verdict.watermarked == (verdict.p_value <= verdict.alpha), "watermarked is not p <= alpha")


@check("OKR-TEXT-002", sampled=True)
def other_keys_get_uniform_p_values(subject: Subject, keys: int) -> None:
    """Many keys, 19 decoys each, on a text sampled under another key, on one token repeated, and on the text that the
    unkeyed model finds least likely: any key makes that likelier.

    A correct test is accused with probability under 9e-7: nine counts, 1e-7 each.
    """
    from .. import system

    for text in (system.texts(0)[0][:24], [5] * 24, system.unlikely_text()):
        require_valid([_verdict(0, text, key, decoys=19, alpha=0.05).p_value for key in system.other_keys(keys)])


@check("OKR-TEXT-003")
def own_text_is_found(subject: Subject) -> None:
    """The claimed key lies some ten standard deviations above the decoys here; three suffice."""
    from .. import system

    for index in (0, 1):
        verdict = _verdict(index, system.texts(index), prompt_length=8)
        require(verdict.watermarked, f"model {index}: not found watermarked", expected="p <= 0.01", got=verdict)


@check("OKR-TEXT-004")
def verdicts_repeat(subject: Subject) -> None:
    from .. import system

    text = system.texts(0)[0]
    found = [_verdict(0, text, rows=rows, decoys=19, alpha=0.05).p_value for rows in (1, 7, 7, 20)]
    require(len(set(found)) == 1, "one question has several answers", expected=found[0], got=found)


@check("OKR-TEXT-005")
def no_opportunity_no_evidence(subject: Subject) -> None:
    from .. import system

    for index in (0, 1):
        verdict = _verdict(index, system.texts(index)[0], epsilon=0.0)
        require(verdict.opportunities == 0, "opportunities at epsilon = 0", got=verdict.opportunities)
        fine = verdict.p_value == 1 and not verdict.watermarked
        require(fine, "evidence from nothing", expected="p = 1", got=verdict)


@check("OKR-TEXT-006")
def agreement_is_not_reported(subject: Subject) -> None:
    from .. import system

    verdict = _verdict(0, system.texts(0)[0])
    require(verdict.hit_rate is None and verdict.chance_rate is None, "a hit rate from replay", got=verdict.hit_rate)


@check("OKR-TEXT-007")
def the_prompt_is_not_judged(subject: Subject) -> None:
    """The log likelihood under the key is that of the judged tokens, worked out from the keyed model's own logits."""
    import torch

    from .. import system
    from ..system import okr

    for index, model in enumerate(system.outspoken_models()):
        text = system.texts(index)[0]
        with okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary"):
            log_p = system.logits(model, torch.tensor([text])).log_softmax(-1)[0]
        for given in (0, 1, 8):
            verdict = _verdict(index, text, prompt_length=given, decoys=1, alpha=0.5)
            first = max(1, given)
            expected = sum(float(log_p[place - 1, text[place]]) for place in range(first, len(text)))
            require(
                verdict.tokens == len(text) - first, "judged tokens", expected=len(text) - first, got=verdict.tokens
            )
            close = abs(verdict.log_likelihood - expected) <= 1e-3 * abs(expected)
            require(close, f"log likelihood after {given} tokens", expected=expected, got=verdict.log_likelihood)


@check("OKR-TEXT-008")
def several_texts_are_one_test(subject: Subject) -> None:
    from .. import system

    for index in (0, 1):
        texts = system.texts(index)
        together, parts = _verdict(index, texts), [_verdict(index, text) for text in texts]
        for field in ("tokens", "opportunities", "log_likelihood", "log_likelihood_ratio"):
            total, got = sum(getattr(part, field) for part in parts), getattr(together, field)
            require(abs(got - total) <= 1e-3 * abs(total), f"{field} do not add", expected=total, got=got)


@check("OKR-TEXT-009")
def other_text_is_refused(subject: Subject) -> None:
    from .. import system

    for text, given in (([], 0), ([5], 0), ([5, 64], 0), ([5, -1], 0), ([5] * 200, 0), ([5, 6, 7], 3)):
        _refused(f"a text of {len(text)} tokens, {given} of them given,", text, prompt_length=given)
    with system.damaged(system.outspoken_models()[0]):
        _refused("a text, by a model whose logits are NaN,", [5, 6, 7])


def _refused(what: str, text: list[int], **options: Any) -> None:
    from ..system import okr

    try:
        verdict = _verdict(0, text, **options)
    except okr.InvalidText as error:
        require("\n" not in str(error), "the error is more than one line", got=str(error))
        return
    raise Violation(f"{what} was judged", expected="InvalidText", got=verdict)


@check("OKR-TEXT-010")
def too_few_decoys_are_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    try:
        _verdict(0, system.texts(0)[0], decoys=98, alpha=0.01)
    except okr.InvalidSetting:
        return
    raise Violation("98 decoys cannot reach alpha = 0.01, yet were accepted")


@check("OKR-TEXT-011")
def detection_leaves_no_mark(subject: Subject) -> None:
    from .. import system

    for index, model in enumerate(system.outspoken_models()):
        for training in (False, True):
            model.train(training)
            try:
                before = system.fingerprint(model)
                _verdict(index, system.texts(index)[0], decoys=1, alpha=0.5)
                changed = system.differences(before, system.fingerprint(model))
            finally:
                model.eval()
            require(not changed, "a detection changed the model", expected="nothing changed", got=changed)


@check("OKR-TEXT-012")
def few_tokens_cannot_be_told(subject: Subject) -> None:
    """Under the key that the text was sampled under; p = 1 by chance has a probability below 1/100 there."""
    from .. import system

    for index in (0, 1):
        first, second = system.texts(index)
        for judged in (1, 5, 15):
            verdict = _verdict(index, first[: 8 + judged], prompt_length=8)
            fine = verdict.p_value == 1 and not verdict.watermarked
            require(fine, f"{judged} tokens judged", expected="p = 1", got=verdict)
        for enough in (first[:24], [first[:16], second[:16]]):
            require(_verdict(index, enough, prompt_length=8).p_value < 1, "16 tokens not judged")
