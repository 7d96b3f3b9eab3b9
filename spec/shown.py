"""What replays might show, drawn at random, and an engine that shows it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from . import counts, oracle
from .cases import Routed, Setting

EXPERTS, SIZE, TOP_K = 8, 32, 2
"""Of the sites of the softmax model, for which everything here is shown."""


@dataclass(frozen=True)
class Shown:
    """Traces of one model with what their replays show, part by part in the order of the sites, and a setting."""

    engine: Any
    traces: list[Any]
    parts: list[list[Routed]]
    setting: Setting
    skip: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """As arguments of a verification."""
        given = {name: getattr(self.setting, name) for name in ("epsilon", "zone", "strength")}
        return {**given, "skip_prompt": self.skip > 0}

    @property
    def judged(self) -> list[Routed]:
        """The parts without the tokens that are left out."""
        return [part for trace in self.parts for part in from_token(trace, self.skip)]

    def counted(self, secret: bytes) -> list[list[counts.Counts]]:
        """The counts by trace and site."""
        return [[counts.counted(part, secret, self.setting, self.skip) for part in trace] for trace in self.parts]


@contextmanager
def _showing(traces: list[Any], parts: list[list[Routed]]) -> Iterator[Any]:
    """The engine of the softmax model, whose replays show what is given."""
    import torch

    from . import system
    from .system import okr

    engine, shown = okr.prepare(system.softmax_model()), {id(t): p for t, p in zip(traces, parts, strict=True)}

    def replay(trace: Any, observe: Any) -> None:
        for site, part in zip(engine.sites, shown[id(trace)], strict=True):
            observe(site, *(torch.from_numpy(a.copy()) for a in (part.choice, part.hidden, part.experts)))

    own, engine.replay = engine.replay, replay
    try:
        yield engine
    finally:
        engine.replay = own


def from_token(parts: list[Routed], first: int) -> list[Routed]:
    """The parts from a token on."""
    return [Routed(p.stack, p.layer, p.choice[first:], p.hidden[first:], p.experts[first:]) for p in parts]


def _part(numbers: Any, layer: int, tokens: int, secret: bytes, setting: Setting, kind: str) -> Routed:
    """One site of one trace: choice scores that are whole 64ths, so that no zone has an open edge."""
    choice = np.round(numbers.normal(0, 1.5, (tokens, EXPERTS)) * 64) / 64
    hidden = numbers.normal(0, numbers.uniform(0.1, 9), (tokens, SIZE)).astype(np.float32)
    if "alike" in kind:
        hidden[:] = hidden[0]
    signs = oracle.projection(secret, stack="decoder", layer=layer, hidden_size=SIZE, num_experts=EXPERTS)
    scores = hidden @ signs / np.linalg.norm(hidden, axis=1, keepdims=True)
    ran = np.array([_ran(numbers, c, g, setting, kind) for c, g in zip(choice.tolist(), scores.tolist(), strict=True)])
    if "holes" in kind:
        ran[numbers.random(tokens) < 0.2] = -1
        ran[numbers.random(tokens) < 0.1] = -2
        hidden[numbers.random(tokens) < 0.1, 3] = np.nan
        hidden[numbers.random(tokens) < 0.1, 5] = np.inf
        choice[numbers.random(tokens) < 0.1, 2] = np.nan
        choice[numbers.random(choice.shape) < 0.1] = -np.inf
        hidden[numbers.random(tokens) < 0.1] = 0
    return Routed("decoder", layer, choice.astype(np.float32), hidden, ran.astype(np.int64))


def _ran(numbers: Any, choice: list[float], scores: list[float], setting: Setting, kind: str) -> list[int]:
    """The experts that run for a token: the key's choice, the model's own, or any."""
    if "any" in kind and numbers.random() < 0.5:
        return [int(expert) for expert in numbers.permutation(EXPERTS)[:TOP_K]]
    zone = oracle.zones(choice, scores, setting)[0]
    if "native" in kind or not zone.opportunity:
        return oracle.native(choice, TOP_K)
    hard = math.isinf(setting.strength)
    wishes = {e: scores[e] if hard else choice[e] + setting.strength * scores[e] for e in zone.pool}
    best = sorted(wishes, key=wishes.__getitem__, reverse=True)[: TOP_K - len(zone.locked)]
    return [*best, *zone.locked]


KINDS = ("keyed", "keyed any", "any holes", "keyed holes", "native", "keyed alike", "native any", "keyed any alike")
QUESTIONS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 9999),
        "lengths": st.lists(st.integers(1, 20), min_size=1, max_size=3),
        "zone": st.sampled_from(("boundary", "max")),
        "epsilon": st.sampled_from((0.25, 1.0, 2.5, math.inf)),
        "strength": st.sampled_from((0.125, 0.5, 1.0, math.inf, math.inf)),
        "kind": st.sampled_from(KINDS),
        "skip": st.sampled_from((0, 0, 0, 1, 2)),
    }
)


@contextmanager
def shown(drawn: dict[str, Any]) -> Iterator[tuple[bytes, Shown]]:
    """A secret, and what is shown of traces that it may have made."""
    from . import system
    from .system import okr

    numbers = np.random.default_rng(drawn["seed"])
    setting = Setting(TOP_K, drawn["epsilon"], drawn["zone"], drawn["strength"])
    header, secret = system.traces(0)[0].header, numbers.bytes(16)
    traces, parts = [], []
    for tokens in drawn["lengths"]:
        parts.append([_part(numbers, layer, tokens, secret, setting, drawn["kind"]) for layer in (0, 1)])
        experts = np.full((tokens, 2, TOP_K), -1, np.int16)
        ids = numbers.integers(0, 64, tokens + 1).astype(np.int32)
        traces.append(okr.Trace(header, ids, experts, min(drawn["skip"], tokens)))
    with _showing(traces, parts) as engine:
        yield secret, Shown(engine, traces, parts, setting, drawn["skip"])
