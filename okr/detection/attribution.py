"""Finds which of several keys, if any, made the evidence.

The null hypothesis of key i is that the evidence was made without knowledge of key i. A key's p-value is that of
:func:`okr.verify` for the ``FINALISTS`` keys with the most evidence in the swaps, which takes one inner product a site.
The others' ranks are not asked for and count as 1, which can only raise their p-values. So the p-values are valid and
have no floor, and Holm's correction over all keys is valid however they depend on each other.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from okr.detection.combination import combined_p
from okr.detection.evidence import all_evidence
from okr.detection.many_keys import Swaps, site_ranks
from okr.detection.swaps import sign_sum_p
from okr.detection.verdict import Bounded, holm
from okr.detection.verification import as_traces, check_alpha, decoy_seed
from okr.engines import Engine, prepare
from okr.errors import InvalidKey
from okr.routing import Key
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName
from okr.traces import Trace

FINALISTS = 4
DECOYS = 9_999  # of each finalist


@dataclass(frozen=True)
class Candidate:
    """The result for one key: its z and p-value as :func:`okr.verify` gives them, and its p-value after Holm's
    correction."""

    key_id: str
    z: float
    p_value: float
    adjusted_p: float


@dataclass(frozen=True, repr=False)
class Attribution(Bounded):
    """Which key made the evidence. It is true, as in ``if attribution``, if a key is named.

    Attributes:
        key_id: the candidate with the smallest p-value, if its adjusted p-value is at most alpha. Else None: no key
            made the evidence, or there is too little evidence. The probability that key_id names a key with no part in
            the evidence is at most alpha.
        alpha: the significance level.
        opportunities: how many (token, site) pairs the key could decide.
        candidates: the result for every key, in the order given.
    """

    key_id: str | None
    alpha: float
    opportunities: int
    candidates: tuple[Candidate, ...]

    def as_dict(self) -> dict[str, Any]:
        """The attribution as values that JSON can hold."""
        return asdict(self)

    def __bool__(self) -> bool:
        return self.key_id is not None

    def __str__(self) -> str:
        if not self.opportunities:
            return "cannot tell: no opportunities"
        best = min(self.candidates, key=lambda candidate: candidate.p_value)
        found = f"key {self.key_id}" if self.key_id else f"none of {len(self.candidates)} keys"
        return f"{found}: smallest adjusted p = {best.adjusted_p:.3g} ({best.key_id}), alpha {self.alpha:g}"


def attribute(
    model: nn.Module | Engine,
    traces: Trace | Sequence[Trace],
    keys: Sequence[Key],
    *,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
    alpha: float = 0.01,
    skip_prompt: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Attribution:
    """Find which of ``keys``, if any, decided the routing that ``traces`` recorded. One replay serves all keys.

    The other arguments are those of :func:`okr.verify`. ``advance`` is called with 1 after each key. The result is
    deterministic.

    Raises InvalidKey if there is no key or a key is given twice, and InvalidTrace and InvalidSetting as
    :func:`okr.verify` does.
    """
    items = as_traces(traces)
    keys = [check_key(key) for key in (keys if isinstance(keys, Iterable) else [keys])]
    if not keys or len({key.id for key in keys}) < len(keys):
        raise InvalidKey("attribution needs at least one key" if not keys else "a key was given twice")
    check_alpha(alpha)
    found = list(
        all_evidence(prepare(model), items, epsilon=epsilon, zone=zone, strength=strength, skip_prompt=skip_prompt)
    )
    swaps, distances = Swaps(found), []
    for number, key in enumerate(keys):
        distances.append(swaps.distance(key))
        if number >= FINALISTS:
            advance(1)
    p_values = [combined_p(sign_sum_p(z), 1.0) for z in distances]
    for place in sorted(range(len(keys)), key=lambda number: -distances[number])[:FINALISTS]:
        if swaps.ranks_count:
            key = keys[place]
            p_values[place] = swaps.p_value(key, site_ranks(found, key, DECOYS, decoy_seed(items, key)))
        advance(1)
    candidates = tuple(
        Candidate(key.id, z, p, corrected)
        for key, z, p, corrected in zip(keys, distances, p_values, holm(p_values), strict=True)
    )
    best = min(candidates, key=lambda candidate: candidate.p_value)
    return Attribution(
        key_id=best.key_id if best.adjusted_p <= alpha else None,
        alpha=alpha,
        opportunities=sum(len(evidence.choice) for trace in found for evidence in trace),
        candidates=candidates,
    )
