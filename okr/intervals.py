"""Shares and means with their intervals, and the distance of one score from many: every figure of the project has one.

scipy.stats, which takes a second to import, is loaded at the first figure.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A measured ``value`` between the ends ``low`` and ``high`` of its interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """Such as ``0.50 (0.40 to 0.60)``."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def share(hits: int, samples: int, confidence: float = CONFIDENCE) -> Interval:
    """``hits`` of at least one ``samples`` as a share, with its Clopper-Pearson interval (exact for independent
    samples)."""
    found = scipy.stats.binomtest(int(hits), samples).proportion_ci(confidence, "exact")
    return Interval(hits / samples, float(found.low), float(found.high))


def mean(values: Sequence[float] | np.ndarray, *, least: float = -math.inf, most: float = math.inf) -> Interval:
    """The mean of independent ``values`` with its 95% interval (Student's t), cut to where values can lie.

    The interval has no width where there is one value only, or where all are equal.
    """
    middle = float(np.mean(values))
    error = float(scipy.stats.sem(values)) if len(values) > 1 else 0.0
    if not error > 0:
        return Interval(middle, middle, middle)
    low, high = scipy.stats.t.interval(CONFIDENCE, len(values) - 1, loc=middle, scale=error)
    return Interval(middle, max(least, float(low)), min(most, float(high)))


def paired(keyed: Sequence[float], unkeyed: Sequence[float]) -> Interval:
    """The mean of the differences keyed - unkeyed of the same texts, with its 95% interval over texts."""
    return mean(np.asarray(keyed) - np.asarray(unkeyed))
