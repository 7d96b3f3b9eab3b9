"""Systems that look for where a key acted in the wrong way."""

import math
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from . import Change, broken

spans: Any = import_module("okr.detection.spans")
windows: Any = import_module("okr.detection.windows")
MADE = ("OKR-VERIFY-001", "OKR-VERIFY-002", "OKR-EVIDENCE-003", "OKR-EVIDENCE-004", "OKR-EVIDENCE-008")


def _windows(change: Change, edit: Any) -> None:
    over = windows.Windows.over
    change(windows.Windows, "over", lambda tokens: edit(over(tokens)))


@broken(
    "the smallest p-value of all windows as if it had been the only one",
    fails=("OKR-EVIDENCE-009", "OKR-EVIDENCE-010"),
    passes=MADE,
)
def uncorrected_windows(change: Change) -> None:
    _windows(change, lambda found: replace(found, tests=np.ones_like(found.tests)))


@broken(
    "windows corrected for their own length alone",
    fails=("OKR-EVIDENCE-009", "OKR-EVIDENCE-010"),
    passes=MADE,
)
def corrected_by_length(change: Change) -> None:
    def edit(found: Any) -> Any:
        return replace(found, tests=found.tests // len(np.unique(found.ends - found.starts)))

    _windows(change, edit)


@broken(
    "only the tokens that fit the key counted",
    fails=("OKR-EVIDENCE-009",),
    passes=MADE,
)
def tokens_that_fit_the_key(change: Change) -> None:
    class Fitting(windows.TokenSwaps):  # type: ignore[misc, name-defined]
        sums: Any

        def p_values(self) -> Any:
            self.sums = np.maximum(self.sums, 0)
            return super().p_values()

    change(spans, "TokenSwaps", Fitting)


@broken(
    "windows across any number of tokens without a swap",
    fails=("OKR-EVIDENCE-009", "OKR-EVIDENCE-010"),
    passes=MADE,
)
def windows_without_breaks(change: Change) -> None:
    change(windows, "BREAK", math.inf)


@broken(
    "spans of all windows, not of the shortest",
    fails=("OKR-EVIDENCE-010",),
    passes=(*MADE, "OKR-EVIDENCE-009"),
)
def widest_spans(change: Change) -> None:
    def widest(starts: Any, ends: Any) -> Any:
        order = np.lexsort((ends, starts))
        return starts[order], np.maximum.accumulate(ends[order])

    change(spans, "_shortest", widest)
