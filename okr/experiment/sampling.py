"""Making and verifying one batch of samples. Any batch can be made again alone: its seed is its own."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from okr.detection import TraceVerdict, verify_keys
from okr.engines import Engine, prepare
from okr.errors import InvalidTrace
from okr.experiment.config import RunConfig
from okr.experiment.layout import TRACES
from okr.loaders import Loaded
from okr.loaders.pieces import pieces
from okr.loaders.prompts import encode, sampling
from okr.routing import Key
from okr.seeds import seed_of
from okr.traces import Trace

Group = Literal["watermarked", "control"]
GROUPS: tuple[Group, ...] = ("watermarked", "control")


class Batch(BaseModel):
    """What is kept of one batch: its samples with their verdicts, whose traces are files beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: Group
    index: int
    seed: int
    samples: list[dict[str, Any]]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Subject:
    """What an experiment is done to, and with which key."""

    loaded: Loaded
    key: Key
    config: RunConfig
    prepared: Engine | None = None

    @cached_property
    def engine(self) -> Engine:
        """The model, prepared once."""
        return self.prepared or prepare(self.loaded.model)


def batch_seed(seed: int, index: int) -> int:
    """The seed of batch ``index``, the same for both groups."""
    return seed_of(f"okr-batch {seed} {index}")


def trace_path(group: str, sample: int) -> str:
    """Where a sample's trace lies, relative to the folder of the run."""
    return f"{TRACES}/{group}-{sample:04d}.safetensors"


def session(subject: Subject, group: Group) -> Any:
    """The model under the key, or recorded natively: a context manager."""
    if group == "watermarked":
        return subject.engine.keyed(subject.key, subject.config.chosen())
    return subject.engine.recorded()


def synchronise() -> None:
    """Wait until every card has finished, so that clocks mean something."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_batch(subject: Subject, folder: Path, group: Group, index: int, prompts: Sequence[str]) -> Batch:
    """Generate, verify and save batch ``index`` of ``group``.

    ``prompts`` are those of this batch. Traces are on disk when this returns.
    """
    config = subject.config
    inputs = encode(subject.loaded, prompts, config.max_length)
    with session(subject, group) as recorder:
        torch.manual_seed(batch_seed(config.seed, index))
        synchronise()
        started = time.perf_counter()
        traces = recorder.generate(**inputs, **sampling(subject.loaded, config.max_length, config.temperature)).traces
        synchronise()
        generated = time.perf_counter()
    first = index * config.batch_size
    samples = [
        _sample(subject, folder, group, first + offset, trace, prompt)
        for offset, (trace, prompt) in enumerate(zip(traces, prompts, strict=True))
    ]
    return Batch(
        group=group,
        index=index,
        seed=batch_seed(config.seed, index),
        samples=samples,
        seconds={"generate": generated - started, "verify": time.perf_counter() - generated},
    )


def _sample(subject: Subject, folder: Path, group: Group, sample: int, trace: Trace, prompt: str) -> dict[str, Any]:
    path = trace_path(group, sample)
    trace.save(folder / path)
    keys = [subject.key, *([unrelated_key(subject.config.seed, sample)] if group == "control" else [])]
    verdict, *unrelated = _verify(subject, trace, keys)
    tokens = by_token(subject.loaded.tokenizer, trace, verdict)
    described = {
        "sample_id": sample,
        "prompt": prompt,
        "text": "".join(tokens["text"][trace.prompt_length :]).strip(),
        "new_tokens": trace.new_tokens,
        "trace": path,
        "digest": trace.digest().hex(),
        "verdict": {name: value for name, value in verdict.as_dict().items() if name not in ("tokens", "dtypes")},
        "tokens": tokens,
    }
    if unrelated:
        described["unrelated_p_value"] = unrelated[0].rank_p
    return described


def by_token(tokenizer: Any, trace: Trace, verdict: TraceVerdict) -> dict[str, list[Any]]:
    """The text of every decoder token of ``trace``, what ``verdict`` counts there, and the p-value after it with three
    digits."""
    ids, prompt = trace.token_ids.tolist(), trace.prompt_length
    rows, p_value = {score.index: score for score in verdict.tokens}, 1.0
    counts = {name: [0] * len(ids) for name in ("free_slots", "matched", "swaps")}
    p_values = []
    for index in range(len(ids)):
        if (score := rows.get(index)) is not None:
            p_value = float(f"{score.p_value:.3g}")
            for name, values in counts.items():
                values[index] = getattr(score, name)
        p_values.append(p_value)
    return {"text": pieces(tokenizer, ids[:prompt]) + pieces(tokenizer, ids[prompt:]), **counts, "p_value": p_values}


def _verify(subject: Subject, trace: Trace, keys: Sequence[Key]) -> list[TraceVerdict]:
    config = subject.config
    setting = asdict(config.chosen())
    return verify_keys(subject.engine, trace, keys, decoys=config.decoys, alpha=config.alpha, **setting)


def unrelated_key(seed: int, sample: int) -> Key:
    """A key that no sample was made under, another one for each control sample; no secret."""
    return Key.public(f"okr-unrelated-key {seed} {sample}")


def is_whole(folder: Path, batch: Batch) -> bool:
    """Whether the traces of a batch are on disk as they were made."""
    try:
        return all(Trace.load(folder / s["trace"]).digest().hex() == s["digest"] for s in batch.samples)
    except (InvalidTrace, KeyError, TypeError):
        return False
