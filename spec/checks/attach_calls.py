"""Chapter ATTACH: models of any library, however they take tokens and give logits, and what is no model."""

from collections.abc import Callable
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check


def recorded(module: Any, text: Any, **options: Any) -> tuple[list[Any], dict[str, Any]]:
    """Traces of ``text`` [batch, tokens] under the key, and what the routers saw and gave in one forward of
    ``module``, which takes ``input_ids`` or the ids first."""
    import torch

    from .. import plain, system
    from ..system import okr

    by_name = not isinstance(module, plain.Parts) or isinstance(module, plain.Record | plain.Wrapper)
    with (
        torch.no_grad(),
        okr.watermark(module, system.key(), epsilon=1.0, zone="boundary") as session,
        system.outputs_of(module) as seen,
        session.recording() as recording,
    ):
        if by_name:
            module(input_ids=text, **options)
        else:
            module(text)
    return recording.traces(text, attention_mask=options.get("attention_mask")), seen


@check("OKR-ATTACH-005")
def models_of_any_library_are_accepted(subject: Subject) -> None:
    """Without a configuration: the ids are the first argument, or have the usual name among others; the logits are the
    output, its first part or have the usual name. Such a model is keyed, recorded, verified and detected as the one
    from which its parts are."""
    from .. import plain, system
    from ..system import okr
    from .text_numbers import detected

    whole = system.outspoken_models()[0]
    text = system.tokens(1, 24, seed=2)
    expected, _ = recorded(whole, text)
    told = detected(whole, text[0])
    for kind in plain.KINDS:
        module, what = kind(system.copied(whole)), f"a model of nobody's library ({kind.__doc__})"
        with system.served(what):
            found, _ = recorded(module, text)
            verdict = okr.verify(module, found[0], system.key(), decoys=99, alpha=0.05)
            got = detected(module, text[0])
        same = (found[0].experts == expected[0].experts).all()
        require(bool(same), f"{what} is recorded otherwise", expected=expected[0].experts, got=found[0].experts)
        require(verdict.hit_rate == 1, f"{what} is verified otherwise", expected=1, got=verdict)
        same = (got.p_value, got.opportunities) == (told.p_value, told.opportunities)
        same &= abs(got.log_likelihood - told.log_likelihood) <= 1e-3 * abs(told.log_likelihood)
        require(same, f"{what} is detected otherwise", expected=told, got=got)


@check("OKR-ATTACH-005")
def what_is_no_model_is_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    ways: dict[str, Callable[[Any], Any]] = {
        "prepared": okr.prepare,
        "recorded": okr.record,
        "watermarked": lambda value: okr.watermark(value, system.key(), epsilon=1.0),
    }
    for other in ("mixtral", 7, None, [system.softmax_model()], type(system.softmax_model())):
        for what, begin in ways.items():
            with system.refused(okr.InvalidSetting, f"{type(other).__name__} {what} in place of a model"):
                begin(other)
