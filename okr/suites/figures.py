"""One measured number with its interval: what every cell yields and every table, plot and comparison is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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
