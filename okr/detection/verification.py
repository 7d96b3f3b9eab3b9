"""Verifies traces by forced replay (spec chapters VERIFY and EVIDENCE).

The null hypothesis is that the trace was made without knowledge of the claimed key. Given the trace, the key's
projections are then uniform +1/-1 matrices, independent of each other. :mod:`okr.detection.swaps` bounds the
probability of as much evidence under it, however tokens depend on each other.

The decoys are images of the key under permutations of columns and changes of signs. Under the null hypothesis their
matches and those of the claimed key are exchangeable, so the key's rank among them is uniform at every site (a
randomisation test, Hemerik and Goeman 2018, Theorem 2). :mod:`okr.detection.combination` makes one p-value of both.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from scipy.special import ndtr
from torch import Tensor, nn

from okr.detection.by_token import TokenTally
from okr.detection.combination import combined_p
from okr.detection.decoys import DecoyBlocks, site_seed
from okr.detection.evidence import SiteEvidence, all_evidence, gather_evidence
from okr.detection.swaps import sign_sum_p
from okr.detection.tally import SiteTally, pooled_rank, sites_p_value, swap_distance
from okr.detection.verdict import TraceVerdict, Verdicts
from okr.engines import Engine, prepare
from okr.errors import InvalidSetting, InvalidTrace
from okr.routing import Key, Setting
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName
from okr.traces import Trace

MOST_DECOYS = 1_000_000


def verify(
    model: nn.Module | Engine,
    traces: Trace | Sequence[Trace],
    key: Key,
    *,
    decoys: int = 999,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
    alpha: float = 0.001,
    skip_prompt: bool = False,
) -> TraceVerdict:
    """Test whether ``key`` decided the routing that ``traces`` recorded. Several traces make one pooled test.

    The null hypothesis of the pooled test is that *none* of the traces was made with knowledge of the key. One
    watermarked trace among many others can be enough to reject it; :func:`verify_each` also judges every trace by
    itself.

    Arguments:
        model: the model that made the traces, or its engine (:func:`okr.prepare`).
        traces: one trace, or several.
        key: the claimed key.
        decoys: how many decoys the key is ranked among at each site. More of them let a short trace show more.
        epsilon: the epsilon to test for, in the unit of each site; by default the one in each trace's header.
        zone: the zone to test for; by default the one in each header.
        strength: the strength to test for; by default the one in each header.
        alpha: the significance level. The p-value has no floor, so it may be as small as 1e-300.
        skip_prompt: leave out the tokens that were given.

    The result is deterministic: the decoys are drawn from a hash of the traces and the key id. Raises InvalidTrace if
    another model made a trace, InvalidKey if ``key`` is none, and InvalidSetting if a value is missing or out of range.
    """
    items = as_traces(traces)
    check_key(key)
    check_decoys(decoys, alpha)
    engine = prepare(model)
    found = all_evidence(engine, items, epsilon=epsilon, zone=zone, strength=strength, skip_prompt=skip_prompt)
    tallies, by_token = count(items, found, key, decoys)
    return _verdict(tallies, by_token, key, alpha, _dtypes(engine, items))


def verify_each(
    model: nn.Module | Engine,
    traces: Sequence[Trace],
    key: Key,
    *,
    decoys: int = 999,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
    alpha: float = 0.001,
    skip_prompt: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Verdicts[TraceVerdict]:
    """Test every trace by itself, and all of them pooled, as :func:`verify` does. Each trace is replayed once.

    The arguments and errors are those of :func:`verify`. ``advance`` is called with 1 after each trace.
    """
    items = as_traces(traces)
    check_key(key)
    check_decoys(decoys, alpha)
    engine = prepare(model)
    found = all_evidence(engine, items, epsilon=epsilon, zone=zone, strength=strength, skip_prompt=skip_prompt)
    together, each = _Count(items, key, decoys), []
    for trace, sites in zip(items, found, strict=True):
        alone = _Count([trace], key, decoys)
        for test in (alone, together):
            test.add(trace, sites)
        each.append(_verdict(*alone.parts(), key, alpha, _dtypes(engine, [trace])))
        advance(1)
    return Verdicts(tuple(each), _verdict(*together.parts(), key, alpha, _dtypes(engine, items)))


def verify_keys(
    model: nn.Module | Engine,
    trace: Trace,
    keys: Sequence[Key],
    *,
    decoys: int = 999,
    epsilon: float | None = None,
    zone: ZoneName | None = None,
    strength: float | None = None,
    alpha: float = 0.001,
    skip_prompt: bool = False,
) -> list[TraceVerdict]:
    """Test one trace under each of ``keys`` as :func:`verify` does, with one replay. The p-values are not corrected for
    the number of keys; :func:`okr.attribute` corrects them. The other arguments and errors are those of
    :func:`verify`."""
    items = as_traces(trace)
    check_decoys(decoys, alpha)
    engine = prepare(model)
    found = list(all_evidence(engine, items, epsilon=epsilon, zone=zone, strength=strength, skip_prompt=skip_prompt))
    return [verdict_of(engine, items, found, check_key(key), decoys, alpha) for key in keys]


def verdict_of(
    engine: Engine,
    traces: Sequence[Trace],
    found: Sequence[Sequence[SiteEvidence]],
    key: Key,
    decoys: int,
    alpha: float,
) -> TraceVerdict:
    """The verdict of :func:`verify` from the evidence ``found`` in each of ``traces``."""
    return _verdict(*count(traces, found, key, decoys), key, alpha, _dtypes(engine, traces))


def prefix_p_values(
    engine: Engine, trace: Trace, key: Key, setting: Setting, decoys: int = 999
) -> Float[Tensor, " tokens"]:
    """The p-value of every prefix of ``trace``, without the tokens that were given: one after each decoder token,
    float64 [tokens]. It is that of :func:`verify` with ``skip_prompt``, except that at each site a decoy with as many
    matches as the key ranks above it."""
    evidence = gather_evidence(engine, trace, setting, skip_prompt=True)
    return count([trace], [evidence], key, decoys)[1].p_values()


def _dtypes(engine: Engine, traces: Sequence[Trace]) -> tuple[tuple[str, ...], str]:
    """The dtypes in which the traces were made, and those in which they are replayed, in words."""
    made = {trace.header.computed_in(trace.header.dtype) for trace in traces}
    replayed = {trace.header.computed_in(engine.dtype) for trace in traces}
    return tuple(sorted(made)), " and ".join(sorted(replayed))


def count(
    items: Sequence[Trace], found: Iterable[Sequence[SiteEvidence]], key: Key, decoys: int
) -> tuple[list[SiteTally], TokenTally]:
    """Count what ``key`` and its decoys match in the traces ``items`` with the evidence ``found``: by site and by
    token."""
    test = _Count(items, key, decoys)
    for trace, sites in zip(items, found, strict=True):
        test.add(trace, sites)
    return test.parts()


def decoy_seed(traces: Sequence[Trace], key: Key) -> bytes:
    """The seed from which the decoys of a test are drawn."""
    return hashlib.sha256(key.id.encode() + b"".join(trace.digest() for trace in traces)).digest()


class _Count:
    """The counts of one test over ``traces``. The evidence of each is added in their order."""

    def __init__(self, traces: Sequence[Trace], key: Key, decoys: int) -> None:
        self.key, self.decoys = key, decoys
        self.seed = decoy_seed(traces, key)
        self.tallies: dict[str, SiteTally] = {}
        self.by_token = TokenTally()

    def add(self, trace: Trace, sites: Sequence[SiteEvidence]) -> None:
        self.by_token.open_trace(len(trace.token_ids) - 1)
        for evidence in sites:
            site = evidence.site
            if site.path not in self.tallies:
                images = DecoyBlocks(self.decoys, site.num_experts, site_seed(self.seed, site.path))
                self.tallies[site.path] = SiteTally(self.key, images, evidence)
            self.by_token.add(site.path, self.tallies[site.path].add(evidence))

    def parts(self) -> tuple[list[SiteTally], TokenTally]:
        return list(self.tallies.values()), self.by_token


def as_traces(traces: Trace | Sequence[Trace]) -> list[Trace]:
    """The traces as a list. Raises InvalidTrace if there is none, or for anything that is no trace."""
    items = [traces] if isinstance(traces, Trace) else list(traces) if isinstance(traces, Iterable) else [traces]
    if not items or not all(isinstance(trace, Trace) for trace in items):
        raise InvalidTrace("there is no trace to verify" if not items else "expected traces (see okr.Trace.load)")
    return items


def check_alpha(alpha: float) -> None:
    """Raise InvalidSetting unless ``alpha`` is a number between 0 and 1."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise InvalidSetting(f"alpha must lie between 0 and 1, got {alpha!r:.40}")


def check_decoys(decoys: int, alpha: float) -> None:
    """Raise InvalidSetting unless ``alpha`` lies between 0 and 1 and ``decoys`` between 1 and MOST_DECOYS."""
    check_alpha(alpha)
    if isinstance(decoys, bool) or not isinstance(decoys, int):
        raise InvalidSetting(f"decoys must be a whole number, got {decoys!r}")
    if not 1 <= decoys <= MOST_DECOYS:
        raise InvalidSetting(f"decoys must lie between 1 and {MOST_DECOYS:,}, got {decoys}")


def check_rank_test(decoys: int, alpha: float) -> None:
    """Raise InvalidSetting as :func:`check_decoys` does, and where a rank among so many decoys cannot reach
    ``alpha``."""
    check_decoys(decoys, alpha)
    if (MOST_DECOYS + 1) * alpha < 1 - 1e-9:
        raise InvalidSetting(f"alpha = {alpha:g} is out of reach: the smallest is {1 / MOST_DECOYS:g}")
    if (decoys + 1) * alpha < 1 - 1e-9:
        raise InvalidSetting(f"alpha = {alpha:g} needs at least {math.ceil(1 / alpha - 1e-9) - 1} decoys, got {decoys}")


def z_score(claimed: float, others: Tensor) -> float:
    """The distance of ``claimed`` from the mean of the decoys' statistics ``others``, in their standard deviations; 0
    if they are all equal."""
    spread = float(others.std()) if len(others) > 1 else 0.0
    return (claimed - float(others.mean())) / spread if spread > 0 else 0.0


def _verdict(
    tallies: Sequence[SiteTally],
    by_token: TokenTally,
    key: Key,
    alpha: float,
    dtypes: tuple[tuple[str, ...], str],
) -> TraceVerdict:
    """The verdict on the counts of one test."""
    free = sum(tally.free_slots for tally in tallies)
    matched = torch.stack([tally.matched for tally in tallies]).sum(0)
    opportunities = sum(tally.opportunities for tally in tallies)
    z = swap_distance(tallies)
    swaps_p, sites_p = sign_sum_p(z), sites_p_value(tallies)
    p_value = combined_p(swaps_p, sites_p)
    return TraceVerdict(
        key_id=key.id,
        p_value=p_value,
        exact=True,
        watermarked=p_value <= alpha,
        alpha=alpha,
        decoys=len(matched) - 1,
        z=z,
        normal_p=float(ndtr(-z)),
        hit_rate=float(matched[0]) / free if free else None,
        chance_rate=float(matched[1:].mean()) / free if free else None,
        opportunities=opportunities,
        swaps=sum(tally.swaps.swaps for tally in tallies),
        expected_swaps=math.fsum(tally.expected for tally in tallies),
        swaps_p=swaps_p,
        sites_p=sites_p,
        rank_p=pooled_rank(tallies) if opportunities else 1.0,
        free_slots=free,
        outside_zone=sum(tally.outside for tally in tallies),
        routed=sum(tally.routed for tally in tallies),
        tokens_needed=by_token.needed(alpha) if opportunities else None,
        dtypes=dtypes,
        sites=tuple(tally.score() for tally in tallies),
        tokens=by_token.scores(),
    )
