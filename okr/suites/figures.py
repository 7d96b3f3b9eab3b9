"""One measured number with its interval: what every cell yields and every table, plot and comparison is made of."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

CONFIDENCE = 0.95
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Figure(BaseModel):
    """A measurement. ``low`` and ``high`` end its 95% interval; all three are null where it could not be measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure: str = Field(description="what was measured, such as 'found' (share of texts)")
    unit: str
    method: str = Field(description="okr text, okr trace, kgw, synthid, none ...")
    condition: str = Field(default="", description="the attack, register or site; empty: none")
    strength: _Finite | None = Field(default=None, description="strength of the condition, as a share or a count")
    tokens: int | None = Field(default=None, ge=1, description="new tokens that were judged")
    level: _Finite | None = Field(default=None, description="false-positive rate of the test")
    value: _Finite | None
    low: _Finite | None = None
    high: _Finite | None = None
    samples: int = Field(ge=0)
    note: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same of this figure in every run."""
        return (self.measure, self.method, self.condition, self.strength, self.tokens, self.level)


def share(hits: int, samples: int) -> tuple[float, float, float]:
    """``hits`` of ``samples`` as a share, with its 95% Clopper-Pearson interval (exact for independent samples)."""
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, hits, samples - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, samples - hits)) if hits < samples else 1.0
    return hits / samples, low, high


def mean(values: Sequence[float], *, least: float = -math.inf, most: float = math.inf) -> tuple[float, float, float]:
    """The mean of independent ``values`` with its 95% interval (Student's t), cut to where values can lie."""
    middle = float(np.mean(values))
    error = float(stats.sem(values)) if len(values) > 1 else 0.0
    if not error > 0:
        return middle, middle, middle
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=middle, scale=error)
    return middle, max(least, float(low)), min(most, float(high))
