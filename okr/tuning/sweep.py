"""Measures settings: what each costs, how often a key can decide under it, and how many tokens are needed to prove a
key."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import norm
from torch import Tensor

from okr.detection import draw_decoys, gather_evidence, likelihoods, prefix_p_values, statistic, z_score
from okr.engines import Engine, Text, prepare
from okr.errors import InvalidConfig
from okr.intervals import paired
from okr.jobs.tasks import Step
from okr.loaders import Loaded, generation_defaults
from okr.loaders.prediction import MAX_TOKENS, passage_loss
from okr.loaders.prompts import padded, sampling
from okr.routing import Key, Setting
from okr.routing.settings import ZoneName
from okr.traces import Trace
from okr.validation import first_problem

LEVELS = (1e-2, 1e-3)
POWER = 0.95
_Number = Annotated[float, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Sweep(_Record):
    """What a calibration measures, and on what."""

    model: str
    dtype: str = Field(default="auto", description="the dtype in which the model was asked for")
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


class TokensNeeded(_Record):
    """The new tokens needed for a true-positive rate of 0.95 at the false-positive rate ``fpr``. None if more than the
    samples can tell are needed."""

    fpr: float
    trace: int | None = Field(description="measured: the length from which 95% of the samples are found")
    text: int | None = Field(description="extrapolated from the mean z, which grows as the square root of the length")
    text_low: int | None = Field(description="extrapolated from the upper end of the mean z's 95% interval")
    text_high: int | None = Field(description="extrapolated from the lower end of that interval; None: no bound")


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
    text_z: float = Field(description="the mean z of a whole text, from the text alone")
    needed: tuple[TokensNeeded, ...]


class Calibration(_Record):
    """The content of calibration.json."""

    sweep: Sweep
    measured: tuple[Measured, ...]

    def cheapest(self, evidence: str, tokens: int, fpr: float) -> Measured | None:
        """The cheapest setting that is found within ``tokens`` tokens at the false-positive rate ``fpr``, or None.
        ``evidence`` is ``trace`` or ``text``."""
        fit = [
            line
            for line in self.measured
            for need in line.needed
            if need.fpr == fpr and (getattr(need, evidence) or math.inf) <= tokens
        ]
        return min(fit, key=lambda line: line.cost) if fit else None

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


def check_length(loaded: Loaded, sweep: Sweep, texts: Sequence[str]) -> None:
    """Raise InvalidConfig unless the longest prompt and the new tokens of the sweep fit into the model's positions."""
    room = getattr(loaded.model.config, "max_position_embeddings", None)
    if room is None or loaded.model.config.is_encoder_decoder:
        return
    given = _prompts(loaded, texts[: sweep.samples])["input_ids"].shape[1]
    if given + sweep.tokens > room:
        raise InvalidConfig(
            f"--length {sweep.tokens} after prompts of up to {given} tokens does not fit the model's {room} positions: "
            f"at most {max(room - given, 0)}"
        )


def unkeyed_losses(loaded: Loaded, texts: Sequence[str]) -> list[float]:
    """The mean loss of each text under the unkeyed model, in nats per token."""
    return [passage_loss(loaded, text)[0] for text in texts]


def measure(
    loaded: Loaded,
    sweep: Sweep,
    index: int,
    texts: Sequence[str],
    unkeyed: Sequence[float],
    step: Step,
) -> Measured:
    """Measure setting number ``index`` of the sweep.

    ``unkeyed`` are the losses of ``texts`` under the unkeyed model, in nats per token. ``step`` is called with 1
    after each of 2 x ``sweep.keys`` steps.
    """
    zone, epsilon, strength = sweep.settings[index]
    setting, engine = Setting.checked(epsilon, zone, strength), prepare(loaded.model)
    keys = [_key(sweep, number) for number in range(sweep.keys)]
    losses = []
    for key in keys:
        with engine.keyed(key, setting):
            losses.append(unkeyed_losses(loaded, texts))
        step(1)
    cost, low, high = paired(np.mean(losses, axis=0).tolist(), unkeyed)
    trace_p, text_z = [], []
    for number, key in enumerate(keys):
        made = _generate(loaded, engine, sweep, setting, key, _share(sweep, number), texts)
        for trace in made:
            p = prefix_p_values(engine, trace, key, setting)
            trace_p.append(p[trace.prompt_length :].numpy())
        text_z += _z_scores(engine, sweep, setting, key, made)
        step(1)
    return Measured(
        zone=zone,
        epsilon=epsilon,
        strength=strength,
        opportunity_rate=_opportunity_rate(loaded, engine, setting, texts[:4]),
        cost=cost,
        cost_low=low,
        cost_high=high,
        text_z=float(np.mean(text_z)),
        needed=tuple(_needed(level, np.stack(trace_p), np.array(text_z), sweep.tokens) for level in LEVELS),
    )


def _key(sweep: Sweep, number: int) -> Key:
    """Key number ``number`` to measure with. It is no secret."""
    return Key.public(f"okr-calibrate {sweep.seed} {number}")


def _share(sweep: Sweep, number: int) -> range:
    """The numbers of the samples that are made under key ``number``."""
    return range(number * sweep.samples // sweep.keys, (number + 1) * sweep.samples // sweep.keys)


def _generate(
    loaded: Loaded, engine: Engine, sweep: Sweep, setting: Setting, key: Key, samples: range, texts: Sequence[str]
) -> list[Trace]:
    """The traces of ``samples`` made under ``key``, each from the first words of a held-out text."""
    if not samples:
        return []
    inputs = _prompts(loaded, [texts[number % len(texts)] for number in samples])
    torch.manual_seed((sweep.seed * 1_000_003 + samples.start) % 2**63)
    with engine.keyed(key, setting) as session:
        made = session.generate(**inputs, **sampling(loaded, sweep.tokens, sweep.temperature))
    return list(made.traces)


def _prompts(loaded: Loaded, texts: Sequence[str]) -> dict[str, Tensor]:
    """The first 24 words of each text, encoded for the model."""
    return padded(loaded, [" ".join(text.split()[:24]) for text in texts], MAX_TOKENS)


def _z_scores(engine: Engine, sweep: Sweep, setting: Setting, key: Key, made: Sequence[Trace]) -> list[float]:
    """The z of each sample, from its text alone."""
    found = []
    for number, trace in enumerate(made):
        source = None if trace.encoder_token_ids is None else torch.from_numpy(trace.encoder_token_ids.astype(np.int64))
        text = Text(torch.from_numpy(trace.token_ids.astype(np.int64)), max(1, trace.prompt_length), source)
        images = draw_decoys(sweep.decoys, engine.sites, f"{key.id} {number} ".encode())
        scored = likelihoods(
            engine, [text], key, setting, images, temperature=sweep.temperature, rows=16, unkeyed=False
        )
        score = statistic(scored.keyed)
        found.append(z_score(float(score[0]), score[1:]))
    return found


def _opportunity_rate(loaded: Loaded, engine: Engine, setting: Setting, texts: Sequence[str]) -> float:
    """The share of routed (token, site) pairs of held-out texts that are opportunities."""
    routed = opportunities = 0
    for text in texts:
        with engine.recorded() as recorder:
            options = generation_defaults(loaded.model) | {"do_sample": False, "max_length": None, "max_new_tokens": 2}
            trace = recorder.generate(**padded(loaded, [text], MAX_TOKENS), **options).traces[0]
        for site in gather_evidence(engine, trace, setting, skip_prompt=False):
            routed, opportunities = routed + site.routed, opportunities + len(site.choice)
    return opportunities / routed if routed else 0.0


def _needed(level: float, trace_p: np.ndarray, z: np.ndarray, tokens: int) -> TokensNeeded:
    """The tokens needed at the false-positive rate ``level``. ``trace_p`` [samples, tokens] holds the p-value of every
    prefix, and ``z`` [samples] those of the whole texts."""
    found = (trace_p <= level * (1 + 1e-9)).mean(0) >= POWER
    late = np.flatnonzero(~found)
    first = int(late[-1]) + 2 if len(late) else 1  # from this length on enough samples are found
    error = z.std(ddof=1) / math.sqrt(len(z))

    def text(mean: float) -> int | None:
        slope = mean / math.sqrt(tokens)
        reach = norm.isf(level) + norm.ppf(POWER) * max(1.0, z.std(ddof=1))
        return math.ceil((reach / slope) ** 2) if slope > 0 else None

    mean = float(z.mean())
    return TokensNeeded(
        fpr=level,
        trace=first if first <= trace_p.shape[1] else None,
        text=text(mean),
        text_low=text(mean + 1.96 * error),
        text_high=text(mean - 1.96 * error),
    )
