"""Traces that are made of parts, of arrays and of answers carelessly."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from . import Change, broken

trace: Any = import_module("okr.traces.trace")
arrays: Any = import_module("okr.traces.routed_experts")
responses: Any = import_module("okr.traces.responses")
MADE = ("OKR-TRACE-001", "OKR-TRACE-003", "OKR-TRACE-004", "OKR-TRACE-006", "OKR-VERIFY-002")


@broken("shapes compared, and numbers not", fails=("OKR-TRACE-007",), passes=(*MADE, "OKR-TRACE-002", "OKR-TRACE-008"))
def shapes_alone(change: Change) -> None:
    def check_stack(made: Any, name: str, tokens: Any, experts: Any, *, encoder: bool) -> None:
        if experts is None or len(experts) != len(tokens) - (not encoder):
            raise trace.InvalidTrace("another number of rows")

    change(trace, "_check_stack", check_stack)


@broken("passes taken unread", fails=("OKR-TRACE-007",), passes=(*MADE, "OKR-TRACE-002", "OKR-TRACE-008"))
def passes_unread(change: Change) -> None:
    change(trace, "check_passes", lambda runs, tokens: None)


@broken(
    "the first columns taken for the routers'",
    fails=("OKR-TRACE-008", "OKR-TRACE-010"),
    passes=(*MADE, "OKR-TRACE-009"),
)
def first_columns(change: Change) -> None:
    change(arrays, "_guess", lambda found, keyed, depth, routed: list(range(len(keyed))))


@broken("rows counted from the end", fails=("OKR-TRACE-008",), passes=(*MADE, "OKR-TRACE-002", "OKR-TRACE-005"))
def rows_from_the_end(change: Change) -> None:
    arrange = trace.arrange

    def arranged(array: Any, sites: Any, tokens: Any, first: Any, **options: Any) -> Any:
        experts, ignored = arrange(array, sites, tokens, first, **options)
        return np.roll(experts, 0 if first is None else -first, 0), ignored

    change(trace, "arrange", arranged)


@broken(
    "unwritten buffers taken for experts",
    fails=("OKR-TRACE-009",),
    passes=(*MADE, "OKR-TRACE-002", "OKR-TRACE-005", "OKR-TRACE-007"),
)
def unwritten_buffers(change: Change) -> None:
    unrouted: Any = import_module("okr.traces.unrouted")
    change(unrouted, "_dummies", lambda rows, sites, tokens: np.zeros(len(rows), bool))


@broken("equal rows always taken out", fails=("OKR-TRACE-009",), passes=(*MADE[1:], "OKR-TRACE-002", "OKR-TRACE-005"))
def equal_rows(change: Change) -> None:
    unrouted: Any = import_module("okr.traces.unrouted")
    change(unrouted, "SURE", -100)


@broken("the prompt counted as new", fails=("OKR-TRACE-010",), passes=(*MADE, "OKR-TRACE-008", "OKR-TRACE-009"))
def prompt_as_new(change: Change) -> None:
    read = responses.read
    change(responses, "read", lambda response, choice: replace(read(response, choice), prompt_length=0))


@broken("always the first answer", fails=("OKR-TRACE-010",), passes=(*MADE, "OKR-TRACE-008", "OKR-TRACE-009"))
def always_the_first(change: Change) -> None:
    read = responses.read
    change(responses, "read", lambda response, choice: read(response, 0))
