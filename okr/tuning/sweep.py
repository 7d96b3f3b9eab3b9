"""The records of a calibration: what is measured, what came out, and which settings are found by it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from okr.errors import InvalidConfig
from okr.routing.settings import ZoneName
from okr.validation import first_problem

LEVELS = (1e-2, 1e-3)
"""The false-positive rates at which a text must be found."""
PROVEN = 1e-3
"""The p-value at which a trace proves a key."""
POWER = 0.95
"""The share of texts, or of traces, that must be found."""
_Number = Annotated[float, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Sweep(_Record):
    """What a calibration measures, and on what."""

    model: str
    dtypes: tuple[str, ...] = Field(
        default=("auto",),
        min_length=1,
        description="the dtypes in which the model was asked for; cost and text are measured in the first",
    )
    quantization: str | None = None
    settings: tuple[tuple[ZoneName, _Number, _Number], ...] = Field(
        min_length=1, description="zone, epsilon and strength of each setting"
    )
    passages: int = Field(ge=2, description="how many held-out texts the cost is measured on")
    text_digest: str = Field(description="SHA-256 of those texts")
    samples: int = Field(ge=2, le=100_000, description="how many texts are generated under each setting")
    keys: int = Field(ge=1, le=100_000, description="how many keys make the samples; the cost is the mean over them")
    tokens: int = Field(ge=8, le=100_000, description="new tokens of each sample")
    decoys: int = Field(ge=7, description="how many decoys each text's z is measured against")
    temperature: float = Field(gt=0)
    seed: int = Field(ge=0, lt=2**63)


class TraceProof(_Record):
    """How traces prove their key under one setting. They were made in batches and are judged one by one."""

    dtype: str = Field(description="the dtype in which the model made the traces and replays them")
    hit_rate: float | None = Field(
        description="the share of free slots that match the key, over the new tokens; None without opportunities"
    )
    tokens: int | None = Field(
        description="measured: the new tokens from which on 95% of the traces have p <= 0.001; None: more than made"
    )


class TextNeeded(_Record):
    """The new tokens that text alone needs for a true-positive rate of 0.95 at the false-positive rate ``fpr``, by
    extrapolation."""

    fpr: float
    tokens: int | None = Field(description="from the mean z, which grows as the square root of the length; None: never")
    low: int | None = Field(description="from the upper end of the mean z's 95% interval")
    high: int | None = Field(description="from the lower end of that interval; None: no bound")


class Measured(_Record):
    """The results for one setting."""

    zone: ZoneName
    epsilon: float
    strength: float
    opportunity_rate: float = Field(
        description="the share of (token, site) pairs of held-out text at which the key could decide"
    )
    cost: float = Field(description="held-out loss of the keyed model less that of the unkeyed model, nats per token")
    cost_low: float
    cost_high: float = Field(description="the ends, with cost_low, of the cost's 95% interval over passages")
    traces: tuple[TraceProof, ...] = Field(description="one for each dtype")
    text_z: float = Field(description="the mean z of a whole text, from the text alone")
    text: tuple[TextNeeded, ...] = Field(description="one for each false-positive rate")

    @property
    def trace_tokens(self) -> int | None:
        """The new tokens that prove the key in every dtype; None: more than were made in one of them."""
        needed = [proof.tokens for proof in self.traces]
        return None if None in needed else max(tokens for tokens in needed if tokens is not None)

    def text_at(self, fpr: float) -> TextNeeded:
        """What text alone needs at the false-positive rate ``fpr``, one of LEVELS."""
        return next(need for need in self.text if need.fpr == fpr)


class Target(_Record):
    """What the two settings must reach."""

    trace_tokens: int = Field(default=16, ge=1, description="the new tokens within which a trace must prove quiet")
    text_tokens: int = Field(default=400, ge=1, description="the new tokens within which text alone must show loud")
    fpr: float = Field(default=0.01, description="the false-positive rate of that text test")


class Found(_Record):
    """A setting that reaches its target."""

    zone: ZoneName
    epsilon: float
    strength: float
    options: str = Field(description="the options of a command that ask for it")
    cost: float
    cost_low: float
    cost_high: float
    tokens: int = Field(description="the new tokens that it needs: from a trace for quiet, from text for loud")

    @classmethod
    def of(cls, line: Measured, tokens: int) -> Self:
        """The setting of ``line``, which needs ``tokens``."""
        options = f"--zone {line.zone} --epsilon {line.epsilon:g} --strength {line.strength:g}"
        fields = {
            name: getattr(line, name) for name in ("zone", "epsilon", "strength", "cost", "cost_low", "cost_high")
        }
        return cls(options=options, tokens=tokens, **fields)


class Calibration(_Record):
    """The content of calibration.json."""

    sweep: Sweep
    target: Target
    measured: tuple[Measured, ...]
    quiet: Found | None = Field(
        description="the weakest setting that traces prove in time in every dtype; None: no setting of the sweep"
    )
    loud: Found | None = Field(
        description="the cheapest setting that text alone shows in time; None: no setting of the sweep"
    )

    @classmethod
    def of(cls, sweep: Sweep, target: Target, measured: Sequence[Measured]) -> Self:
        """The calibration of what was ``measured``, with the two settings that reach ``target``."""
        by_trace = [(line, line.trace_tokens or target.trace_tokens + 1) for line in measured]
        by_text = [(line, line.text_at(target.fpr).tokens or target.text_tokens + 1) for line in measured]
        proven = [Found.of(line, tokens) for line, tokens in by_trace if tokens <= target.trace_tokens]
        shown = [Found.of(line, tokens) for line, tokens in by_text if tokens <= target.text_tokens]
        return cls(
            sweep=sweep,
            target=target,
            measured=tuple(measured),
            quiet=min(proven, key=lambda found: (found.strength, found.cost), default=None),
            loud=min(shown, key=lambda found: found.cost, default=None),
        )

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read a calibration.json. Raises InvalidConfig if ``path`` cannot be read or holds anything else."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            raise InvalidConfig(f"{path} is not a calibration: {first_problem(error).message}") from None


def digest(texts: Sequence[str]) -> str:
    """SHA-256 of ``texts``, in hexadecimal, which identifies the held-out texts of a sweep."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
