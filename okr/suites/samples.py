"""Texts of every method on the same prompts, and the keys they are made under."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from okr.detection import prefix_p_values
from okr.engines import Engine, Session, prepare
from okr.errors import InvalidConfig
from okr.experiment.config import RunConfig
from okr.loaders import Loaded
from okr.loaders.prompts import encode, sampling
from okr.routing import Key, Setting
from okr.seeds import seed_of
from okr.suites.options import SuiteOptions
from okr.suites.other_watermarks import SYNTHID_DEPTH, Kgw, SynthId
from okr.traces import Trace
from okr.traces.load import expert_load

SYNTHID_DECOYS = 999
METHODS = ("none", "okr", "okr louder", "kgw", "kgw louder", "synthid", "synthid shallow")
ATTACKED = ("okr louder", "kgw louder", "synthid")  # with enough power for an attack to take something away


@dataclass(frozen=True)
class Bench:
    """What suites work on: the model, the run's configuration, the suite's options and the prompts."""

    loaded: Loaded
    config: RunConfig
    options: SuiteOptions
    prompts: tuple[str, ...]
    prepared: Engine | None = None

    @cached_property
    def engine(self) -> Engine:
        """The model, prepared once."""
        return self.prepared or prepare(self.loaded.model)

    @property
    def vocabulary(self) -> int:
        """Size of the model's output."""
        return int(self.loaded.model.get_output_embeddings().weight.shape[0])

    @property
    def batches(self) -> int:
        """Batches of texts of each method; each has a key of its own."""
        return -(-self.options.samples // self.options.batch)

    def batch(self, index: int) -> range:
        """The samples of a batch."""
        first = index * self.options.batch
        return range(first, min(first + self.options.batch, self.options.samples))

    def setting(self, method: str) -> Setting:
        """The watermark's setting: the run's own, or (louder) one that costs more."""
        own = self.config.chosen()
        if method != "okr louder":
            return own
        if np.isfinite(own.strength):
            return replace(own, strength=1.5 * own.strength)
        return replace(own, epsilon=1.5 * own.epsilon)

    def watermarked(self, method: str, key: Key) -> AbstractContextManager[Session]:
        """The model under ``key`` with the method's setting, for the length of a ``with`` block."""
        return self.engine.keyed(key, self.setting(method))

    def key(self, index: int) -> Key:
        """The key of batch ``index``: derived from the seed, so no secret."""
        return Key.public(f"okr-suite {self.config.seed} {index}")

    def kgw(self, index: int, bias: float) -> Kgw:
        """KGW's key of batch ``index``."""
        return Kgw(self.vocabulary, bias, self.config.seed * 100_003 + index)

    def synthid(self, index: int, method: str) -> SynthId:
        """SynthID's key of batch ``index``; shallow: a tournament of one layer."""
        depth = 1 if method == "synthid shallow" else SYNTHID_DEPTH
        return SynthId(depth, self.config.seed * 100_003 + index)


@dataclass(frozen=True)
class Made:
    """One text as the model read it: ``tokens`` with the prompt in front, ``source`` for an encoder."""

    tokens: tuple[int, ...]
    prompt_length: int
    source: tuple[int, ...] | None = None

    @property
    def new(self) -> tuple[int, ...]:
        """The tokens that were generated."""
        return self.tokens[self.prompt_length :]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; :meth:`of` reads it."""
        source = None if self.source is None else list(self.source)
        return {"tokens": list(self.tokens), "prompt_length": self.prompt_length, "source": source}

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Made":
        """From :meth:`as_dict`."""
        source = None if values["source"] is None else tuple(values["source"])
        return cls(tuple(values["tokens"]), values["prompt_length"], source)


def make_texts(bench: Bench, method: str, index: int, bias: float = 0.0) -> dict[str, Any]:
    """Batch ``index`` of ``method``: its texts; for OKR and for no watermark the experts' loads and the traces'
    p-values by length."""
    traces = make_traces(bench, method, index, bias)
    found: dict[str, Any] = {"texts": [as_made(trace).as_dict() for trace in traces]}
    if method == "none" or method.startswith("okr"):
        found["load"] = loads(traces)
        lengths = bench.options.lengths
        found["trace_p"] = [trace_p(bench.engine, t, bench.key(index), bench.setting(method), lengths) for t in traces]
    return found


def make_traces(bench: Bench, method: str, index: int, bias: float = 0.0) -> list[Trace]:
    """Generate batch ``index`` of ``method``. ``bias`` is KGW's. The seed is the batch's own, for every method."""
    prompts = [bench.prompts[sample] for sample in bench.batch(index)]
    tokens = bench.options.tokens
    arguments = encode(bench.loaded, prompts, tokens) | sampling(bench.loaded, tokens, bench.config.temperature)
    if method.startswith("kgw"):
        arguments["watermarking_config"] = bench.kgw(index, bias).config()
    if method.startswith("synthid"):
        arguments["watermarking_config"] = bench.synthid(index, method).config()
    torch.manual_seed(seed_of(f"okr-suite-batch {bench.config.seed} {index}"))
    own = method.startswith("okr")
    with bench.watermarked(method, bench.key(index)) if own else bench.engine.recorded() as session:
        return list(session.generate(**arguments).traces)


def loads(traces: Sequence[Trace]) -> dict[str, list[int]]:
    """How often each expert ran over all traces, by site."""
    experts = {site.path: site.num_experts for trace in traces for site in trace.header.sites}
    return {path: counts.tolist() for path, counts in expert_load(traces, experts).items()}


def as_made(trace: Trace) -> Made:
    """The text of a trace."""
    source = None if trace.encoder_token_ids is None else tuple(trace.encoder_token_ids.tolist())
    return Made(tuple(trace.token_ids.tolist()), max(1, trace.prompt_length), source)


def trace_p(engine: Engine, trace: Trace, key: Key, setting: Setting, lengths: Sequence[int]) -> list[float]:
    """okr.verify's p-value of the first ``lengths`` new tokens of a trace, prompts left out."""
    p = prefix_p_values(engine, trace, key, setting)
    first = max(0, trace.prompt_length - 1)
    return [float(p[min(first + length, len(p)) - 1]) for length in lengths]


def shortened(prompts: Sequence[str], words: int) -> list[str]:
    """The first ``words`` words of each. InvalidConfig where nothing is left."""
    found = [" ".join(prompt.split()[:words]) for prompt in prompts]
    if not all(found):
        raise InvalidConfig("a prompt holds no word")
    return found
