"""Chapter EVIDENCE, on where a key acted: spans of traces against the oracle, window by window."""

import math
from typing import Any

from .. import evidence, windows
from ..cases import Routed, Setting
from ..replays import replaying_once
from ..subject import Subject
from ..verdicts import require
from . import check

_LEVELS = (0.5, 0.01, 3e-6)


def _shown(engine: Any, trace: Any, first: int) -> tuple[Routed, ...]:
    """What a replay shows from the token ``first`` on."""
    found: list[Routed] = []

    def observe(site: Any, *parts: Any) -> None:
        found.append(Routed(site.stack, site.layer, *(part[first:].clone().numpy() for part in parts)))

    engine.replay(trace, observe)
    return tuple(found)


def _cases() -> list[tuple[str, Any, Any, float, bool]]:
    """Name, engine, trace, strength and skip_prompt of each case."""
    from .. import system

    mixed = system.mixed_trace()
    engine = replaying_once(system.softmax_model())
    return [
        ("a mixed trace", engine, mixed, math.inf, False),
        ("a mixed trace without its prompt", engine, mixed, math.inf, True),
        ("a keyed trace", engine, system.traces(0)[0], math.inf, False),
        ("a keyed trace of another model", replaying_once(system.models()[1]), system.traces(1)[1], math.inf, False),
        ("one state all along", engine, system.monotone_trace(), math.inf, False),
    ]


@check("OKR-EVIDENCE-009")
def windows_are_corrected(subject: Subject) -> None:
    """The smallest p-value of all windows is the oracle's, for the key that acted and for others."""
    from ..system import okr

    for name, _, got, found, secret in _answers(0.01):
        expected = min((window.p_value for window in found), default=1.0)
        evidence.require_close(f"{name}, key {okr.Key(secret).id}: smallest p-value", expected, got.p_value)
        within = all(span.p_value <= 0.01 for span in got.spans)
        require(within, f"{name}: spans beyond the level", expected="p <= 0.01", got=got.spans)


@check("OKR-EVIDENCE-010")
def spans_are_made_of_the_shortest_windows(subject: Subject) -> None:
    for name, alpha, got, found, _ in _answers(*_LEVELS):
        expected = windows.spans(found, alpha)
        places = [(span.start, span.end) for span in got.spans]
        right = [(span.start, span.end) for span in expected]
        require(places == right, f"{name}, alpha {alpha:g}: spans", expected=right, got=places)
        for span, other in zip(expected, got.spans, strict=True):
            evidence.require_close(f"{name}, alpha {alpha:g}: p-value of a span", span.p_value, other.p_value)


def _answers(*alphas: float) -> Any:
    """Name, level, answer, the oracle's windows in places of the trace, and secret: of every case and several keys."""
    from .. import system
    from ..system import okr

    for name, engine, trace, strength, skip in _cases():
        epsilon = system.epsilon_of(engine.model)
        first = trace.prompt_length if skip else 0
        shown = _shown(engine, trace, first)
        setting = Setting(shown[0].experts.shape[1], epsilon, "boundary", strength)
        options = {"epsilon": epsilon, "zone": "boundary", "strength": strength, "skip_prompt": skip}
        for secret in (system.SECRET, *system.other_secrets(2)):
            found = windows.windows(shown, secret, setting)
            moved = [windows.Window(one.start + first, one.end + first, one.p_value) for one in found]
            for alpha in alphas:
                yield name, alpha, okr.locate(engine, trace, okr.Key(secret), alpha=alpha, **options), moved, secret
