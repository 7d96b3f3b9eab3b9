"""Chapter TRACE: several recordings and several models at a time, compiled or not."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_generations import keyed


@check("OKR-TRACE-001")
def calls_of_others_are_not_recorded(subject: Subject) -> None:
    """Two models run in turn, each in recordings of its own and in none, their routers compiled or not: a recording
    holds what its own model ran in it, outside the recordings within it."""
    from .. import system
    from ..system import okr

    one, two = system.growing_model(), system.copied(system.softmax_model())
    first, second = system.tokens(2, 9, seed=1), system.tokens(2, 9, seed=2)
    for begin, compiled in ((keyed, False), (okr.record, False), (okr.record, True)):
        what = f"models whose routers are {'compiled' if compiled else 'not compiled'}"
        with begin(one) as outer, okr.record(two) as inner:
            expected = _alone(outer, inner, first)
            with system.served(what), _compiled(one, two) if compiled else ExitStack():
                for model in (one, two, one):
                    system.logits(model, second)  # nobody records it
                with outer.recording() as ones:
                    system.logits(two, second)
                    system.logits(one, first)
                    with inner.recording() as twos:
                        system.logits(one, second)
                        system.logits(two, first)
                    system.logits(two, second)
                system.logits(one, second)
                found = [recording.traces(first) for recording in (ones, twos)]
        for traces, right in zip(found, expected, strict=True):
            same = [trace.digest() for trace in traces] == [trace.digest() for trace in right]
            require(same, f"{what}: a recording holds something else", expected=right, got=traces)


def _alone(outer: Any, inner: Any, text: Any) -> list[list[Any]]:
    """Traces of one call each, recorded by each of them alone."""
    from .. import system

    found = []
    for session in (outer, inner):
        with session.recording() as recording:
            system.logits(session.model, text)
        found.append(recording.traces(text))
    return found


@contextmanager
def _compiled(*models: Any) -> Iterator[None]:
    """Compile the routers of ``models``, by a backend that runs them as they are."""
    import torch

    from .. import system

    modules = [module for model in models for _, module in system.routers(model)]
    try:
        for module in modules:
            module.compile(backend="eager")
        yield
    finally:
        for module in modules:
            module._compiled_call_impl = None
        torch.compiler.reset()
