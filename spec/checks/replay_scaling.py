"""Chapter REPLAY: models with code of their own that scale positions by the length, and several scalings in one."""

from ..subject import Subject
from ..verdicts import require
from . import check
from .replay import replayed_scores
from .replay_passes import recovered
from .trace_scaling import SHIFTED, looped, shifted


@check("OKR-REPLAY-002")
def replay_recovers_states_scaled_by_own_code(subject: Subject) -> None:
    """However the configuration says that positions are scaled, and however the model calls what scales them; in a
    batch the longest text scales all."""
    from .. import scalings, system

    ways = [(configuration, "positions by keyword") for configuration in scalings.CONFIGURATIONS]
    ways += [("rope_parameters", call) for call in scalings.CALLS]
    for configuration, call in ways:
        model = scalings.own_model(configuration, call)
        with system.accepted(f"a loop over a model with {configuration}, {call}"):
            made, seen = looped(model, (10, 7))
        recovered(model, made, seen, (0, 3))


@check("OKR-REPLAY-002")
def replay_recovers_states_at_any_position(subject: Subject) -> None:
    """Also where positions counted the padding, and the scaling stayed the same."""
    from .. import system

    for kind, lengths, padding, steps, alike in SHIFTED:
        if alike:
            with system.accepted(f"a loop over texts of {lengths} behind {padding} of padding, by {kind}"):
                model, made, seen = shifted(kind, lengths, padding, steps)
            recovered(model, made, seen, tuple(padding + max(lengths) - length for length in lengths))


@check("OKR-REPLAY-002")
def replay_recovers_states_of_two_scalings(subject: Subject) -> None:
    """They begin at different lengths, are of different kinds, or one of them counts pairs of tokens."""
    from .. import scalings, system

    for kind in ("later", "other", "pairs"):
        model = scalings.two_scalings(kind)
        for lengths, steps in (((15,), 4), ((9,), 8)):
            original = system.copied(model)
            with system.accepted(f"a second scaling, {kind}"):
                made, seen = looped(system.copied(model), lengths, counted=False, steps=steps)
            recovered(original, made, seen, (0,))


@check("OKR-REPLAY-004")
def replay_leaves_what_scaling_notes(subject: Subject) -> None:
    """A model that has run nothing yet is left without a note of what it saw, and a used one with those it had."""
    from .. import scalings, system

    for model in (system.stretched_model(), scalings.own_model(call="a note kept")):
        trace = looped(system.copied(model), (10,))[0].traces[0]
        for used in (False, True):
            if used:
                model(input_ids=system.tokens(1, 5))
            before = system.fingerprint(model)
            replayed_scores(model, trace)
            changed = system.differences(before, system.fingerprint(model))
            require(not changed, f"a replay changed a model, used: {used}", expected="nothing changed", got=changed)
