"""The oracle of what a verdict counts, token by token. It shares no code with okr.detection."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import oracle
from .cases import Routed, Setting

CLOSE = 1e-4
"""Preferences that lie closer than this may stand in either order."""


@dataclass
class Counts:
    """What one key matches in one or more parts of a replay. Rounding may decide matches: ``least`` to ``most``."""

    routed: int = 0
    opportunities: int = 0
    free: int = 0
    outside: int = 0
    least: int = 0
    most: int = 0
    tokens: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Add another part's counts; those by token are of one trace."""
        for name in ("routed", "opportunities", "free", "outside", "least", "most"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for token, counts in other.tokens.items():
            self.tokens.setdefault(token, Counter()).update(counts)


def counted(shown: Routed, secret: bytes, setting: Setting, skip: int = 0) -> Counts:
    """The counts of one site in one trace, without the first ``skip`` tokens (OKR-VERIFY-012)."""
    size, experts = shown.hidden.shape[1], shown.choice.shape[1]
    signs = oracle.projection(secret, stack=shown.stack, layer=shown.layer, hidden_size=size, num_experts=experts)
    found = Counts()
    for token in range(skip, len(shown.choice)):
        ran = shown.experts[token].tolist()
        if min(ran) < 0:
            continue
        found.routed += 1
        row, state = shown.choice[token].tolist(), shown.hidden[token].astype(np.float64)
        zone = oracle.zones(row, [0.0] * experts, setting)[0]
        if not np.isfinite(state).all() or not zone.opportunity:
            continue
        norm = math.sqrt(float(state @ state))
        scores = (state @ signs / norm if norm else np.zeros(experts)).tolist()
        free = setting.top_k - len(zone.locked)
        least, most = _matches(row, scores, ran, zone, setting)
        found.opportunities, found.free = found.opportunities + 1, found.free + free
        found.outside += len(set(ran) - zone.pool - zone.locked)
        found.least, found.most = found.least + least, found.most + most
        found.tokens[token] = Counter(opportunities=1, free=free, least=least, most=most)
    return found


def _matches(
    row: Sequence[float], scores: Sequence[float], ran: Sequence[int], zone: oracle.Zone, setting: Setting
) -> tuple[int, int]:
    """The fewest and the most free slots that hold an expert which the key prefers."""
    hard, free = math.isinf(setting.strength), setting.top_k - len(zone.locked)
    wishes = {e: scores[e] if hard else row[e] + setting.strength * scores[e] for e in zone.pool}
    last = sorted(wishes.values(), reverse=True)[free - 1]
    inside = [wishes[e] for e in ran if e in zone.pool]
    surely, maybe = (sum(wish >= last + edge for wish in inside) for edge in (CLOSE, -CLOSE))
    near = sum(abs(wish - last) < CLOSE for wish in wishes.values())
    return (min(maybe, free),) * 2 if near == 1 else (min(surely, free), min(maybe, free))
