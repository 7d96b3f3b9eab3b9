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
    if "native" in kind or not zone.opportunity or ("few" in kind and numbers.random() < 0.9):
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
    numbers = np.random.default_rng(drawn["seed"])
    setting, skip = Setting(TOP_K, drawn["epsilon"], drawn["zone"], drawn["strength"]), drawn["skip"]
    secret, traces, parts = numbers.bytes(16), [], []
    for tokens in drawn["lengths"]:
        parts.append([_part(numbers, layer, tokens, secret, setting, drawn["kind"]) for layer in (0, 1)])
        traces.append(_trace(numbers, tokens, skip))
    with _showing(traces, parts) as engine:
        yield secret, Shown(engine, traces, parts, setting, skip)


@contextmanager
def showing(parts: list[list[Routed]], setting: Setting) -> Iterator[Shown]:
    """Traces of which replays show ``parts``, those of both sites for each trace. Equal shapes have equal traces."""
    numbers = np.random.default_rng(0)
    traces = [_trace(numbers, len(trace[0].choice), 0) for trace in parts]
    with _showing(traces, parts) as engine:
        yield Shown(engine, traces, parts, setting)


def _trace(numbers: Any, tokens: int, skip: int) -> Any:
    """A trace of so many tokens with routing; the experts in it are not read."""
    from . import system
    from .system import okr

    experts = np.full((tokens, 2, TOP_K), -1, np.int16)
    ids = numbers.integers(0, 64, tokens + 1).astype(np.int32)
    return okr.Trace(system.traces(0)[0].header, ids, experts, min(skip, tokens))


def signs_of(secret: bytes, layer: int) -> Any:
    """The projection of a secret at one of the two sites."""
    return oracle.projection(secret, stack="decoder", layer=layer, hidden_size=SIZE, num_experts=EXPERTS)


def state_of(signs: Any, scores: Any) -> Any:
    """A state of norm 1 that has these key scores under a projection, float32 [SIZE]."""
    signs = signs.astype(np.float64)
    along = signs @ np.linalg.solve(signs.T @ signs, np.asarray(scores, np.float64))
    across = np.random.default_rng(0).normal(size=SIZE)
    across -= signs @ np.linalg.lstsq(signs, across, rcond=None)[0]
    rest = 1 - float(along @ along)
    if rest < 0:
        raise ValueError(f"no state of norm 1 has the key scores {scores}")
    return (along + across * math.sqrt(rest) / np.linalg.norm(across)).astype(np.float32)


def alike(
    secret: bytes, layer: int, tokens: int, choice: Any, scores: Any, ran: Any, kind: type[np.floating] = np.float32
) -> Routed:
    """One site at which every token is the same: its choice scores, its key scores under a secret (None: the state is
    zero), and the experts that ran. ``kind`` is the type of the choice scores."""
    signs = signs_of(secret, layer)
    state = np.zeros(SIZE, np.float32) if scores is None else state_of(signs, scores)
    rows = (np.asarray(choice, kind), state, np.asarray(ran, np.int64))
    return Routed("decoder", layer, *(np.tile(row, (tokens, 1)) for row in rows))
