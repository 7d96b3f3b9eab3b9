"""Chapter TRACE: what no router can have made counts as not recorded."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from math import log2, perm
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_arrays import EXPERTS, traced

DEEP, TOP_K, SURE = 8, 4, 20
Rows = list[list[list[int] | None]]
"""By row and column: the experts, or None where nothing is recorded."""


def _slot(used: list[int], experts: int) -> list[int] | None:
    """The experts of a slot, unless it was never filled, or in part."""
    if any(not 0 <= expert < experts for expert in used) or (len(used) > 1 and len(set(used)) == 1):
        return None
    return used


def _columns(rows: Rows) -> list[int]:
    """Those in which anything is recorded."""
    return [column for column in range(len(rows[0])) if any(row[column] is not None for row in rows)]


def _whole(rows: Rows) -> list[int]:
    """The rows that are recorded in each of those columns."""
    columns = _columns(rows)
    return [place for place, row in enumerate(rows) if columns and all(row[c] is not None for c in columns)]


def _dummies(rows: Rows, sizes: list[int], tokens: list[int]) -> set[int]:
    columns, enough = _columns(rows), SURE + log2(len(rows))
    least = min((sizes[c] for c in columns), default=0)
    same = least * (len(columns) - 1) >= enough
    counted = sum(log2(perm(EXPERTS, sizes[c])) for c in columns) >= enough
    found = set()
    for place in _whole(rows):
        slots = [rows[place][c] or [] for c in columns]
        if same and all(slot[:least] == slots[0][:least] for slot in slots):
            found.add(place)
        if counted and all(slot == [*range(len(slot))] for slot in slots):
            found.add(place)
    return found


def _stale(rows: Rows, sizes: list[int], tokens: list[int]) -> set[int]:
    bits = sum(sizes[column] for column in _columns(rows))
    places: dict[str, list[int]] = {}
    for place in _whole(rows):
        places.setdefault(repr(rows[place]), []).append(place)
    found: set[int] = set()
    for alike in places.values():
        different = len({tokens[place] for place in alike})
        if bits * (different - 1) >= SURE + different * log2(len(rows)):
            found.update(alike)
    return found


def recorded(array: Any, sizes: list[int], tokens: list[int]) -> Any:
    """What is recorded of an array, [rows, columns, k] with -1 elsewhere; and how many rows each reason touched."""
    width = array.shape[-1]
    rows: Rows = [[_slot(slot[:k], EXPERTS) for slot, k in zip(row, sizes, strict=True)] for row in array.tolist()]
    lost = [0, 0]
    for row, given in zip(rows, array.tolist(), strict=True):
        slots = [slot[:k] for slot, kept, k in zip(given, row, sizes, strict=True) if kept is None]
        partly = [any(0 <= e < EXPERTS for e in slot) and len(set(slot)) > 1 for slot in slots]
        lost[0] += any(set(slot) != {-1} and not part for slot, part in zip(slots, partly, strict=True))
        lost[1] += any(partly)
    for find in (_dummies, _stale):
        taken = find(rows, sizes, tokens)
        lost.append(len(taken))
        rows = [[None] * len(row) if place in taken else row for place, row in enumerate(rows)]
    made = [[(slot or []) + [-1] * (width - len(slot or [])) for slot in row] for row in rows]
    return np.array(made).reshape(array.shape), [count for count in lost if count]


def require_recorded(what: str, array: Any, tokens: list[int], sizes: list[int] | None = None) -> None:
    """Violation unless of an array [n, 8, 4] is recorded what the rules leave."""
    from .. import system
    from ..system import okr

    model = system.deep_model()
    sizes = [TOP_K] * DEEP if sizes is None else sizes
    sites = [replace(site, top_k=k) for site, k in zip(okr.discover(model), sizes, strict=True)]
    with system.accepted(what), warnings() as heard:
        trace = traced(array, [*tokens, 0], model, sites=sites)
    expected, lost = recorded(array, sizes, tokens)
    wrong = (trace.experts != expected).any((1, 2)).nonzero()[0].tolist()
    require(not wrong, f"{what}: rows {wrong[:5]}", expected=expected[wrong[:2]], got=trace.experts[wrong[:2]])
    require(sorted(trace.ignored.values()) == sorted(lost), f"{what}: rows ignored", expected=lost, got=trace.ignored)
    require(len(heard) == bool(lost), f"{what}: warnings", expected=int(bool(lost)), got=heard)


@contextmanager
def warnings() -> Iterator[list[str]]:
    """The warnings of the logger ``okr`` in the block, which nobody else hears."""
    log, heard = logging.getLogger("okr"), list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield heard
    finally:
        log.removeHandler(handler)
        log.propagate = propagated


def drawn_experts(count: int, seed: int) -> Any:
    """Different experts in every row, [count, 8, 4]."""
    ranked = np.random.default_rng(seed).random((count, DEEP, EXPERTS)).argsort(-1)
    return ranked[..., :TOP_K]


_FAULTS = ("unfilled", "repeated value", "no expert", "partly", "one row", "same", "counted", "stale", "half stale")


@check(
    "OKR-TRACE-009",
    lambda: st.tuples(
        st.integers(0, 999), st.integers(2, 40), st.lists(st.sampled_from(_FAULTS), max_size=4), st.integers(0, 5)
    ),
    share=0.2,
)
def what_no_router_made_is_not_recorded(subject: Subject, drawn: tuple[int, int, list[str], int]) -> None:
    """Faults of several kinds in one array, some of whose columns hold nothing, for routers of one k or of several."""
    seed, count, faults, empty = drawn
    array, numbers = drawn_experts(count, seed), np.random.default_rng(seed)
    tokens = numbers.integers(0, 9 if seed % 2 else 60, count).tolist()
    for fault in faults:
        _spoil(array, fault, numbers)
    array[:, DEEP - empty :] = -1
    require_recorded("faults drawn at random", array, tokens)
    if seed % 3 == 0:
        sizes = [TOP_K, 2, 3, TOP_K, 1, TOP_K, 2, 3]
        for column, size in enumerate(sizes):
            array[:, column, size:] = -1
        require_recorded("faults of routers of several k", array, tokens, sizes)


def _spoil(array: Any, fault: str, numbers: Any) -> None:
    """Put one fault into some rows of an array."""
    count = len(array)
    rows, column = numbers.integers(0, count, max(1, count // 4)), int(numbers.integers(0, 3))
    match fault:
        case "unfilled":
            array[rows, column] = -1
        case "repeated value":
            array[rows, column] = numbers.integers(0, EXPERTS)
        case "no expert":
            array[rows, column] = EXPERTS + 120
        case "partly":
            array[rows, column, 2] = -1
        case "one row":
            array[rows] = -1
        case "same":
            array[rows] = array[rows][:, :1]
        case "counted":
            array[rows] = np.arange(TOP_K)
        case "stale":
            array[rows] = array[0]
        case "half stale":
            array[rows, :4] = array[0, :4]


@check("OKR-TRACE-009")
def chance_decides_what_is_taken_out(subject: Subject) -> None:
    """Arrays on both sides of the probability 2^-20: rows of one choice in every column, of 0 to k - 1, or alike."""
    for live, count, alike in product(range(1, DEEP + 1), (2, 3, 16, 17, 64, 65), (1, 2, 3)):
        if alike > count or (count > 60 and live < DEEP):
            continue
        for fault in ("same", "counted", "stale"):
            array = drawn_experts(count, count + live)
            array[:alike] = {"same": array[:alike, :1], "counted": np.arange(TOP_K), "stale": array[0]}[fault]
            array[:, live:] = -1
            require_recorded(f"{alike} of {count} rows {fault} in {live} columns", array, [*range(count)])


@check("OKR-TRACE-009")
def numbers_that_are_no_pads_are_refused(subject: Subject) -> None:
    """One number beyond the experts may fill whole slots; others, or some in a slot, belong to other experts."""
    from .. import system
    from ..system import okr

    wrong: dict[str, tuple[Any, ...]] = {
        "one expert beyond in a slot": (((2, 1, 3), EXPERTS),),
        "two numbers beyond": (((2, 1), EXPERTS), ((3, 1), EXPERTS + 1)),
        "the last row's slot beyond in part": (((-1, -1, 0), EXPERTS),),
        "two numbers below -1": (((2, 1), -2), ((3, 1), -3)),
        "two numbers below -1 in a slot": (((2, 1, 0), -2), ((2, 1, 1), -7)),
    }
    fine: dict[str, tuple[Any, ...]] = {
        "one number below -1": (((2, 1), -9), ((3, 1), -9)),
        "one number below -1 in part": (((2, 1, 0), -9),),
        "-1 and one number below": (((2, 1), -1), ((3, 1), -2)),
        "one number beyond": (((2, 1), EXPERTS), ((3, 1), EXPERTS)),
        "numbers of different columns": (((2, 1), EXPERTS), ((2, 2), EXPERTS + 9), ((2, 3), -4), ((2, 4), -5)),
    }
    for groups, refuse in ((wrong, True), (fine, False)):
        for what, edits in groups.items():
            array = drawn_experts(9, 0)
            for place, value in edits:
                array[place] = value
            if not refuse:
                require_recorded(what, array, [*range(9)])
                continue
            with system.refused(okr.InvalidTrace, what):
                traced(array, [*range(10)], system.deep_model())
