"""Chapter TEXT: models that scale positions by the length."""

from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .text_numbers import detected


@check("OKR-TEXT-009")
def texts_are_as_long_as_the_scaling_allows(subject: Subject) -> None:
    """One token more than there are positions, for the last one is not read; the next is refused, unless the model
    names no number of positions."""
    from .. import plain, scalings, system
    from ..system import okr

    for said, room in scalings.ROOMS:
        model = scalings.roomy_model(said)
        with system.served(f"a text as long as the {room} positions of {said} allow"):
            detected(model, [5, 6] * (room // 2) + [5], decoys=1, alpha=0.5)
        with system.refused(okr.InvalidText, f"a text of two tokens more than the {room} positions of {said}"):
            detected(model, [5, 6] * (room // 2 + 1), decoys=1, alpha=0.5)
    with system.served("a text of 50 tokens, by a model that names no number of positions"):
        detected(plain.Plain(system.growing_model()), [5, 6] * 25, decoys=1, alpha=0.5)


@check("OKR-TEXT-007")
def likelihoods_are_of_one_pass_over_the_text(subject: Subject) -> None:
    """Positions are scaled for the tokens of the text that are read, whatever the model saw before."""
    from .. import scalings, system

    models = (
        system.growing_model(),
        system.stretched_model(),
        scalings.own_model(call="positions third"),
    )
    for original, length in ((_attentive(model), length) for model in models for length in (13, 20)):
        text = system.tokens(1, length, seed=8)
        expected = _log_likelihood(system.copied(original), text)
        used = system.copied(original)
        for seen in (0, 40):
            if seen:
                used(input_ids=system.tokens(1, seen))
            got = detected(used, text[0].tolist(), decoys=1, alpha=0.5).log_likelihood
            what = f"{type(used).__name__}: log likelihood of {length} tokens, after {seen} others"
            require(abs(got - expected) <= 1e-3 * abs(expected), what, expected=expected, got=got)


def _attentive(model: Any) -> Any:
    """A copy whose predictions follow from where tokens stand, as training makes them."""
    import torch

    from .. import system

    louder = system.copied(model)
    with torch.no_grad():
        for name, parameter in louder.named_parameters():
            if "self_attn" in name or "lm_head" in name:
                parameter.mul_(15)
    return louder


def _log_likelihood(model: Any, text: Any) -> float:
    """That of all tokens but the first of a text [1, n], under the key."""
    import torch

    from .. import system
    from ..system import okr

    run = okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary")
    with run, torch.no_grad():
        log_p = model(input_ids=text[:, :-1]).logits[0].double().log_softmax(-1)
    return float(log_p.gather(1, text[0, 1:, None]).sum())
