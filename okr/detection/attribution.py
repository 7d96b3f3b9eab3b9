"""Finds which of several keys, if any, made the evidence.

The null hypothesis of key i is that the evidence was made without knowledge of key i. Each key's p-value comes from
images of that key by sequential sampling (Besag and Clifford 1991). Images are drawn until ``ENOUGH`` of them do at
least as well as the key; then p = ENOUGH / drawn. If that does not happen within N images, p = (1 + images that do as
well) / (N + 1). These p-values are valid, and they cost little for keys that made nothing. So N can be large enough for
the smallest p to remain significant after Holm's correction over all keys. Holm's correction is valid however the
p-values depend on each other.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from okr.detection.counting import count
from okr.detection.decoys import Decoys, site_seed
from okr.detection.evidence import SiteEvidence, all_evidence
from okr.detection.tally import at_least_as_good
from okr.detection.verdict import Bounded, holm
from okr.detection.verification import MOST_DECOYS, as_traces
from okr.engines import Engine, prepare
from okr.engines.choice import Projector
from okr.errors import InvalidKey, InvalidSetting
from okr.routing import Key
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName
from okr.traces import Trace

ENOUGH = 10  # a key is given up after so many images that do as well
_BLOCKS = (64, 448, 3584)  # how many images are drawn at a time; the last size is repeated


@dataclass(frozen=True)
class Candidate:
    """The result for one key: its p-value, its p-value after Holm's correction, and how many images were drawn."""

    key_id: str
    p_value: float
    adjusted_p: float
    images: int


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
    advance: Callable[[float], None] = lambda share: None,
) -> Attribution:
    """Find which of ``keys``, if any, decided the routing that ``traces`` recorded. One replay serves all keys.

    The other arguments are those of :func:`okr.verify`. ``advance`` is called with the share of a key's test that was
    done; the shares of each key add up to 1. A key that made the traces takes len(keys) / alpha images, of which at
    most a million are allowed. The result is deterministic.

    Raises InvalidKey if there is no key or a key is given twice, and InvalidTrace and InvalidSetting as
    :func:`okr.verify` does.
    """
    items = as_traces(traces)
    keys = [check_key(key) for key in (keys if isinstance(keys, Iterable) else [keys])]
    if not keys or len({key.id for key in keys}) < len(keys):
        raise InvalidKey("attribution needs at least one key" if not keys else "a key was given twice")
    largest = images_needed(len(keys), alpha)
    found = all_evidence(prepare(model), items, epsilon=epsilon, zone=zone, strength=strength, skip_prompt=skip_prompt)
    sites = [site for trace in found for site in trace if len(site.choice)]
    content = b"".join(trace.digest() for trace in items)
    results = []
    for key in keys:
        seed, told = hashlib.sha256(key.id.encode() + content).digest(), 0.0
        for p, images in _sequential(sites, key, seed, largest):
            done = images / largest if p is None else 1.0
            advance(done - told)
            told = done
        assert p is not None
        results.append((p, images))
    adjusted = holm([p for p, _ in results])
    candidates = tuple(
        Candidate(key.id, p, corrected, images)
        for key, (p, images), corrected in zip(keys, results, adjusted, strict=True)
    )
    best = min(candidates, key=lambda candidate: candidate.p_value)
    return Attribution(
        key_id=best.key_id if best.adjusted_p <= alpha * (1 + 1e-9) else None,
        alpha=alpha,
        opportunities=sum(len(site.choice) for site in sites),
        candidates=candidates,
    )


def images_needed(keys: int, alpha: float) -> int:
    """How many images of a key are needed for a p-value that stays at most ``alpha`` after Holm's correction over
    ``keys`` keys.

    Raises InvalidSetting if alpha is not between 0 and 1, or if more than MOST_DECOYS images are needed.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise InvalidSetting(f"alpha must lie between 0 and 1, got {alpha}")
    if keys / alpha > MOST_DECOYS + 1 + 1e-6:
        raise InvalidSetting(
            f"alpha = {alpha:g} takes more than {MOST_DECOYS:,} images of a key: the smallest alpha that "
            f"{keys:,} key{'s' * (keys != 1)} can reach is {keys / MOST_DECOYS:g}"
        )
    return math.ceil(keys / alpha - 1e-9) - 1


def sequential_p_value(sites: Sequence[SiteEvidence], key: Key, seed: bytes, largest: int) -> tuple[float, int]:
    """The sequential p-value of ``key`` with at most ``largest`` images, and how many were drawn.

    If the p-value is at most ``ENOUGH`` / (largest + 1), it equals that of a test with exactly ``largest`` decoys.
    """
    *_, (p, images) = _sequential(sites, key, seed, largest)
    assert p is not None
    return p, images


def _sequential(
    sites: Sequence[SiteEvidence], key: Key, seed: bytes, largest: int
) -> Iterator[tuple[float | None, int]]:
    """After each block of images: the p-value, or None until it is known, and how many images were drawn."""
    if not sites:
        yield 1.0, 0
        return
    claimed = [Projector(site.site, key)(site.hidden) for site in sites]
    matched, support = _count(sites, claimed, 0, seed, 0)
    own = (float(matched[0]), float(support[0]))
    drawn = as_good = 0
    for number, size in enumerate(_sizes(largest), 1):
        matched, support = _count(sites, claimed, size, seed, number)
        better = at_least_as_good(matched[1:], support[1:], own).cumsum(0) + as_good
        if int(better[-1]) >= ENOUGH:
            drawn += int((better < ENOUGH).sum()) + 1
            yield ENOUGH / drawn, drawn
            return
        drawn, as_good = drawn + size, int(better[-1])
        yield None, drawn
    yield (1 + as_good) / (drawn + 1), drawn


def _sizes(largest: int) -> Iterator[int]:
    """The sizes of the blocks in which ``largest`` images are drawn."""
    number = 0
    while largest > 0:
        size = min(largest, _BLOCKS[min(number, len(_BLOCKS) - 1)])
        yield size
        largest, number = largest - size, number + 1


def _count(
    sites: Sequence[SiteEvidence], claimed: Sequence[Tensor], images: int, seed: bytes, block: int
) -> tuple[Float[Tensor, " keys"], Float[Tensor, " keys"]]:
    """The matches and the support of the key itself (index 0) and of ``images`` new images, float64, summed over all
    sites."""
    matched, support = torch.zeros(2, images + 1, dtype=torch.float64)
    drawn: dict[str, Decoys] = {}
    for site, scores in zip(sites, claimed, strict=True):
        path = site.site.path
        if path not in drawn:
            drawn[path] = Decoys.draw(images, site.site.num_experts, site_seed(seed + block.to_bytes(4, "big"), path))
        hits, prefers = count(drawn[path], site, scores)
        matched += hits.sum(0).double()
        support += prefers
    return matched, support
