"""Chapter TEXT: how long a text may be."""

from ..subject import Subject
from . import check


@check("OKR-TEXT-009")
def texts_may_be_as_long_as_positions_reach(subject: Subject) -> None:
    """As long as the scaling of its rotary embeddings takes a model, and as anything takes one that names no number of
    positions. The last token is no input."""
    from .. import plain, system
    from ..system import okr
    from .attach_calls import served
    from .text_numbers import detected

    growing = system.growing_model()  # 12 positions, four times as many when scaled
    for what, model, length in (
        ("12 positions that are scaled by four", growing, 49),
        ("positions that nothing names", plain.Plain(growing), 50),
        ("12 positions that nothing scales", system.unscaled_model(), 13),
    ):
        with served(f"a text of {length} tokens, by a model of {what}"):
            detected(model, [5] * length, decoys=4)
        if model.__dict__.get("config") is not None:
            with system.refused(okr.InvalidText, f"a text of {length + 1} tokens, by a model of {what}"):
                detected(model, [5] * (length + 1), decoys=4)
