"""Measures settings: what each costs, how often a key can decide under it, and how many tokens are needed to prove a
key."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from okr.detection import draw_decoys, gather_evidence, likelihoods, prefix_p_values, statistic, verify, z_score
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
from okr.tuning.sweep import LEVELS, POWER, PROVEN, Measured, Sweep, TextNeeded, TraceProof

BATCH = 8
"""How many texts are generated at once. Their traces are judged one by one."""


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
    """Measure setting number ``index`` of the sweep, all but the traces in other dtypes.

    ``unkeyed`` are the losses of ``texts`` under the unkeyed model, in nats per token. ``step`` is called with 1
    after each of 2 x ``sweep.keys`` steps.
    """
    setting, engine = Setting.checked(*_values(sweep, index)), prepare(loaded.model)
    losses = []
    for number in range(sweep.keys):
        with engine.keyed(_key(sweep, number), setting):
            losses.append(unkeyed_losses(loaded, texts))
        step(1)
    cost, low, high = paired(np.mean(losses, axis=0).tolist(), unkeyed)
    proofs, text_z = _Proofs(engine, setting), list[float]()
    for number in range(sweep.keys):
        key = _key(sweep, number)
        made = _made(loaded, engine, sweep, setting, number, texts)
        proofs.add(made, key)
        text_z += _z_scores(engine, sweep, setting, key, made)
        step(1)
    return Measured(
        zone=setting.zone,
        epsilon=setting.epsilon,
        strength=setting.strength,
        opportunity_rate=_opportunity_rate(loaded, engine, setting, texts[:4]),
        cost=cost,
        cost_low=low,
        cost_high=high,
        traces=(proofs.proof(),),
        text_z=float(np.mean(text_z)),
        text=tuple(text_needed(level, np.array(text_z), sweep.tokens) for level in LEVELS),
    )


def measure_traces(loaded: Loaded, sweep: Sweep, index: int, texts: Sequence[str], step: Step) -> TraceProof:
    """Measure the traces of setting number ``index`` of the sweep, alone. ``step`` is called with 1 after each of
    ``sweep.keys`` steps."""
    setting, engine = Setting.checked(*_values(sweep, index)), prepare(loaded.model)
    proofs = _Proofs(engine, setting)
    for number in range(sweep.keys):
        proofs.add(_made(loaded, engine, sweep, setting, number, texts), _key(sweep, number))
        step(1)
    return proofs.proof()


class _Proofs:
    """What traces made under ``setting`` prove, one by one."""

    def __init__(self, engine: Engine, setting: Setting) -> None:
        self.engine, self.setting = engine, setting
        self.matched, self.free_slots = 0.0, 0
        self.p_values: list[Float[np.ndarray, " tokens"]] = []

    def add(self, traces: Sequence[Trace], key: Key) -> None:
        """Judge ``traces``, which were made under ``key``."""
        for trace in traces:
            p = prefix_p_values(self.engine, trace, key, self.setting)
            self.p_values.append(p[trace.prompt_length :].numpy())
            verdict = verify(self.engine, trace, key, skip_prompt=True)
            self.free_slots += verdict.free_slots
            self.matched += (verdict.hit_rate or 0.0) * verdict.free_slots

    def proof(self) -> TraceProof:
        """What they prove together."""
        return TraceProof(
            dtype=self.engine.dtype,
            hit_rate=self.matched / self.free_slots if self.free_slots else None,
            tokens=trace_needed(np.stack(self.p_values)),
        )


def trace_needed(p_values: Float[np.ndarray, "traces tokens"]) -> int | None:
    """The new tokens from which on at least 95% of the traces are proven; None: more than they have. ``p_values`` holds
    the p-value of every prefix."""
    proven = (p_values <= PROVEN * (1 + 1e-9)).mean(0) >= POWER
    late = np.flatnonzero(~proven)
    first = int(late[-1]) + 2 if len(late) else 1
    return first if first <= p_values.shape[1] else None


def _values(sweep: Sweep, index: int) -> tuple[float, ZoneName, float]:
    zone, epsilon, strength = sweep.settings[index]
    return epsilon, zone, strength


def _key(sweep: Sweep, number: int) -> Key:
    """Key number ``number`` to measure with. It is no secret."""
    return Key.public(f"okr-calibrate {sweep.seed} {number}")


def _share(sweep: Sweep, number: int) -> range:
    """The numbers of the samples that are made under key ``number``."""
    return range(number * sweep.samples // sweep.keys, (number + 1) * sweep.samples // sweep.keys)


def _batches(sweep: Sweep, number: int) -> Iterator[range]:
    """The numbers of the samples that are made at once, batch by batch, under key ``number``."""
    share = _share(sweep, number)
    for first in range(share.start, share.stop, BATCH):
        yield range(first, min(first + BATCH, share.stop))


def _made(
    loaded: Loaded, engine: Engine, sweep: Sweep, setting: Setting, number: int, texts: Sequence[str]
) -> list[Trace]:
    """The traces that are made under key ``number``, each from the first words of a held-out text."""
    made: list[Trace] = []
    for samples in _batches(sweep, number):
        inputs = _prompts(loaded, [texts[sample % len(texts)] for sample in samples])
        torch.manual_seed((sweep.seed * 1_000_003 + samples.start) % 2**63)
        with engine.keyed(_key(sweep, number), setting) as session:
            made += session.generate(**inputs, **sampling(loaded, sweep.tokens, sweep.temperature)).traces
    return made


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


def text_needed(level: float, z: Float[np.ndarray, " texts"], tokens: int) -> TextNeeded:
    """The new tokens that text alone needs at the false-positive rate ``level``. ``z`` are those of texts of ``tokens``
    new tokens."""
    error = z.std(ddof=1) / math.sqrt(len(z))

    def needed(mean: float) -> int | None:
        slope = mean / math.sqrt(tokens)
        reach = norm.isf(level) + norm.ppf(POWER) * max(1.0, z.std(ddof=1))
        return math.ceil((reach / slope) ** 2) if slope > 0 else None

    mean = float(z.mean())
    return TextNeeded(fpr=level, tokens=needed(mean), low=needed(mean + 1.96 * error), high=needed(mean - 1.96 * error))
