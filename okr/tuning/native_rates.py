"""Judges keys on native traces: how often would a key be found where it was not used?

A p-value says what happens over random keys; a deployment lives with one. Native routing has no swaps where it is
judged as it was made, and few where rounding differs, so a key passes at once as a rule. What is measured here is that
this holds for this key, this model, this dtype and this text.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from okr.detection import p_values
from okr.engines import Engine, prepare
from okr.experiment.config import Extended
from okr.intervals import share
from okr.loaders import Loaded, generation_defaults
from okr.loaders.prediction import MAX_TOKENS
from okr.loaders.prompts import padded, sampling
from okr.routing import Key, Setting
from okr.seeds import seed_of
from okr.traces import Trace

LEVELS = (0.05, 0.01)
CONFIDENCE = 0.99
BATCH = 8


class NativeRate(BaseModel):
    """How often one key was found in native traces of one model. A key file may hold it; it is no secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    dtype: str
    epsilon: Extended
    zone: str
    strength: Extended
    traces: int = Field(ge=1)
    found: dict[str, int] = Field(description="traces with a p-value of at most each level")
    smallest_p: float = Field(gt=0, le=1)

    def __str__(self) -> str:
        shares = ", ".join(f"{count} at p <= {level}" for level, count in self.found.items())
        origin = f"{self.traces} native traces of {self.model} in {self.dtype}"
        return f"of {origin}: {shares}; smallest p {self.smallest_p:.3g}"

    def passes(self) -> bool:
        """Whether no level is exceeded beyond chance: no 99% interval of a rate lies above its level."""
        return all(share(count, self.traces, CONFIDENCE).low <= float(level) for level, count in self.found.items())


def native_rates(
    loaded: Loaded,
    keys: Sequence[Key],
    setting: Setting,
    texts: Sequence[str],
    *,
    new_tokens: int = 64,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[NativeRate]:
    """The rates of ``keys`` on native traces of ``texts``: half of them as they are, half of what the model samples
    after their first words. Traces are made in batches of 8 and judged one by one, in the dtype of the model.

    ``advance`` is called with 1 after each trace.
    """
    engine, found = prepare(loaded.model), []
    for trace in _native(loaded, engine, texts, new_tokens, seed):
        found.append(p_values(engine, trace, keys, setting))
        advance(1)
    return [_rate(loaded, engine, setting, column) for column in np.stack(found, axis=1)]


def _rate(loaded: Loaded, engine: Engine, setting: Setting, p: np.ndarray) -> NativeRate:
    return NativeRate(
        model=loaded.source,
        dtype=engine.dtype,
        epsilon=setting.epsilon,
        zone=setting.zone,
        strength=setting.strength,
        traces=len(p),
        found={f"{level:g}": int((p <= level).sum()) for level in LEVELS},
        smallest_p=float(p.min()),
    )


def _native(loaded: Loaded, engine: Engine, texts: Sequence[str], new_tokens: int, seed: int) -> Iterator[Trace]:
    """Native traces, one for each text."""
    for number, first in enumerate(range(0, len(texts), BATCH)):
        batch = texts[first : first + BATCH]
        if number % 2:
            batch = [" ".join(text.split()[:16]) for text in batch]
            options = sampling(loaded, new_tokens, 1.0)
        else:
            options = generation_defaults(loaded.model) | {"do_sample": False, "max_new_tokens": 1, "max_length": None}
        torch.manual_seed(seed_of(f"native {seed} {first}"))
        with engine.recorded() as recorder:
            made = recorder.generate(**padded(loaded, batch, MAX_TOKENS), **options)
        yield from made.traces
