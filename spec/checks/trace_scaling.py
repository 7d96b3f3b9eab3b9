"""Chapter TRACE: models that scale positions by the length."""

from types import SimpleNamespace
from typing import Any

from ..subject import Subject
from . import check
from .trace_recordings import decoded


def looped(model: Any, lengths: tuple[int, ...], *, padding: int = 0, counted: bool = True, steps: int = 8) -> Any:
    """Traces of texts that a loop made, and what the routers saw.

    ``lengths``: those of the prompts, with ``padding`` before the longest; ``counted``: positions begin with the text,
    else it is left to the model, which numbers the padding, too; ``steps``: calls of the model.
    """
    import torch

    from .. import system
    from ..system import okr

    width = max(lengths) + padding
    ids = system.tokens(len(lengths), width, seed=3)
    mask = torch.tensor([[int(place >= width - length) for place in range(width)] for length in lengths])
    run = okr.watermark(model, system.key(), epsilon=1.0, zone="boundary")
    with run as session, system.outputs_of(model) as seen, session.recording() as recording:
        ids, mask = decoded(model, ids * mask, mask, steps, cache=True, last=0, counted=counted)
    made = recording.traces(ids, prompt_length=width, attention_mask=mask)
    return SimpleNamespace(traces=made), seen


SHIFTED: tuple[tuple[str, tuple[int, ...], int, int, bool], ...] = (
    ("growing", (5,), 2, 5, True),
    ("growing", (6, 4), 0, 6, True),
    ("growing", (9,), 0, 8, True),
    ("growing", (9,), 7, 3, False),
    ("growing", (9, 5), 0, 6, False),
    ("stretched", (5,), 2, 5, True),
    ("stretched", (6, 4), 0, 6, True),
    ("stretched", (9,), 16, 8, True),
    ("stretched", (9,), 2, 3, False),
    ("stretched", (9, 5), 0, 6, False),
    ("positions second", (9,), 0, 8, True),
    ("positions second", (9,), 3, 4, False),
    ("positions second of three", (9,), 3, 4, False),
    ("positions of three axes", (9,), 0, 8, True),
    ("positions third", (9,), 0, 8, True),
    ("positions third", (9,), 3, 4, False),
    ("positions without a name", (9,), 3, 4, False),
    ("positions between numbers", (9,), 0, 8, True),
    ("a layer type", (5,), 2, 5, True),
    ("a layer type", (9,), 16, 8, True),
    ("a layer type", (9,), 2, 3, False),
)
"""A model, the lengths of its texts and the padding before them, the calls, and whether their scaling is the same."""


def shifted(kind: str, lengths: tuple[int, ...], padding: int, steps: int) -> tuple[Any, Any, dict[str, Any]]:
    """A new model of a kind, the texts of a loop in which positions count the padding, and what the routers saw."""
    from .. import scalings, system

    kinds: dict[str, Any] = {"growing": system.growing_model, "stretched": system.stretched_model}
    model = kinds[kind]() if kind in kinds else scalings.own_model(call=kind)
    return model, *looped(system.copied(model), lengths, padding=padding, counted=False, steps=steps)


@check("OKR-TRACE-001")
def positions_may_count_the_padding(subject: Subject) -> None:
    """Where each text begins is then no matter as long as the scaling stays the same. Where it changes it matters, and
    no trace says it."""
    from .. import system
    from ..system import okr

    for kind, lengths, padding, steps, alike in SHIFTED:
        what = f"a loop over texts of {lengths} behind {padding} of padding, by {kind}"
        with system.accepted(what) if alike else system.refused(okr.UnsupportedGeneration, what):
            shifted(kind, lengths, padding, steps)


@check("OKR-TRACE-001")
def a_cache_dropped_midway_is_refused(subject: Subject) -> None:
    """A model that drops its cache where it begins to scale, and does not see again what was in it. Until then there
    is a trace, and there is one of a model that sees everything again."""
    from .. import system
    from ..system import okr

    for dimensions in (2, 4):
        model = _forgetful(dimensions)
        arguments = {"input_ids": system.tokens(1, 9), **system.GREEDY}
        with okr.record(model) as session:
            with system.accepted("texts that end before the cache is dropped"):
                session.generate(max_new_tokens=4, **arguments)
            with system.refused(okr.UnsupportedGeneration, f"a dropped cache, with a mask of {dimensions} dimensions"):
                session.generate(max_new_tokens=6, **arguments)
            with system.accepted("texts made without a cache"):
                session.generate(max_new_tokens=6, use_cache=False, **arguments)


def _forgetful(dimensions: int) -> Any:
    """A model that shows itself the last token alone past the twelfth; its mask is then of all tokens."""
    from functools import wraps

    import torch

    from .. import system

    model = system.stretched_model()
    prepare = model.prepare_inputs_for_generation

    @wraps(prepare)
    def prepared(input_ids: Any, **given: Any) -> dict[str, Any]:
        made: dict[str, Any] = prepare(input_ids, **given)
        if input_ids.shape[1] > 12 and given.get("past_key_values") is not None:
            mask = torch.ones_like(input_ids).view([1] * (dimensions - 1) + [-1])
            made |= {"past_key_values": None, "input_ids": input_ids[:, -1:], "attention_mask": mask}
            made["position_ids"] = torch.tensor([[input_ids.shape[1] - 1]])
        return made

    model.prepare_inputs_for_generation = prepared
    return model
