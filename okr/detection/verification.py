"""Verification of traces: forced replay, decoy keys, exact p-value (spec chapter VERIFY).

Null hypothesis: the trace was made without knowledge of the claimed key. Then the key's projections are, given the
trace, uniform +1/-1 matrices, and so are their images under permutations of columns and changes of their signs. The
claimed key's statistic is therefore exchangeable with those of such images (the decoys), and its rank among them is
uniform, however dependent the tokens are: a randomisation test (Hemerik and Goeman 2018, Theorem 2).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

from jaxtyping import Float
from scipy.special import ndtr
from torch import Tensor, nn

from okr.detection.decoys import Decoys, site_seed
from okr.detection.evidence import SiteEvidence, all_evidence, gather_evidence
from okr.detection.tally import SiteTally, TokenTally, at_least_as_good, pooled
from okr.detection.verdict import TraceVerdict, Verdicts
from okr.engines import Engine, prepare
from okr.errors import InvalidSetting, InvalidTrace
from okr.routing import Key, Setting
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName
from okr.traces import Trace

MOST_DECOYS = 1_000_000  # what they match is counted token by token: two bytes a token and decoy


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
    """Whether ``key`` decided the routing that ``traces`` recorded; several traces are one pooled test.

    The pooled null hypothesis is that *none* of the traces was made with knowledge of the key: one marked trace among
    many others can be enough to reject it (:func:`verify_each` also judges every trace by itself).

    Arguments: ``model``, or what :func:`okr.prepare` made of it; settings that are None are what the traces' headers
    say; ``skip_prompt`` leaves out the tokens that were given. The p-value is exact and at least 1 / (decoys + 1).
    Deterministic: the decoys are drawn from a hash of the traces and the key id. Raises InvalidTrace when a trace is
    another model's, InvalidSetting when a setting is missing or alpha cannot be reached.
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
    """What :func:`verify` says of every trace by itself, and of all of them pooled, from one replay of each.

    Arguments and errors as there; ``advance`` hears of every trace that is done.
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
    """What :func:`verify` says of one trace under each of ``keys``, from one replay: a test a key, none corrected for
    the others (:func:`okr.attribute` does that). Arguments and errors as in :func:`verify`."""
    items = as_traces(trace)
    check_decoys(decoys, alpha)
    engine = prepare(model)
    found = list(all_evidence(engine, items, epsilon=epsilon, zone=zone, strength=strength, skip_prompt=skip_prompt))
    dtypes = _dtypes(engine, items)
    return [_verdict(*count(items, found, check_key(key), decoys), key, alpha, dtypes) for key in keys]


def prefix_p_values(engine: Engine, trace: Trace, key: Key, setting: Setting, decoys: int) -> Float[Tensor, " tokens"]:
    """The p-value of every prefix of a trace, tokens that were given left out: after each decoder token, as
    :func:`verify` with ``skip_prompt`` gives it, equal counts going to the decoys."""
    evidence = gather_evidence(engine, trace, setting, skip_prompt=True)
    return count([trace], [evidence], key, decoys)[1].p_values()


def _dtypes(engine: Engine, traces: Sequence[Trace]) -> tuple[tuple[str, ...], str]:
    """Those that traces were made in, and the one they are replayed in."""
    made = {trace.header.computed_in(trace.header.dtype) for trace in traces}
    replayed = {trace.header.computed_in(engine.dtype) for trace in traces}
    return tuple(sorted(made)), " and ".join(sorted(replayed))


def count(
    items: Sequence[Trace], found: Iterable[Sequence[SiteEvidence]], key: Key, decoys: int
) -> tuple[list[SiteTally], TokenTally]:
    """What a claimed key and its decoys match in traces and the evidence in them: by site and by token."""
    test = _Count(items, key, decoys)
    for trace, sites in zip(items, found, strict=True):
        test.add(trace, sites)
    return test.parts()


class _Count:
    """The counts of one test over ``traces``, whose evidence is added one by one, in their order."""

    def __init__(self, traces: Sequence[Trace], key: Key, decoys: int) -> None:
        self.key, self.decoys = key, decoys
        self.seed = hashlib.sha256(key.id.encode() + b"".join(trace.digest() for trace in traces)).digest()
        self.tallies: dict[str, SiteTally] = {}
        self.by_token = TokenTally(decoys + 1)

    def add(self, trace: Trace, sites: Sequence[SiteEvidence]) -> None:
        self.by_token.open_trace(len(trace.token_ids) - 1)
        for evidence in sites:
            site = evidence.site
            if site.path not in self.tallies:
                images = Decoys.draw(self.decoys, site.num_experts, site_seed(self.seed, site.path))
                self.tallies[site.path] = SiteTally(self.key, images, evidence)
            self.by_token.add(evidence, self.tallies[site.path].add(evidence))

    def parts(self) -> tuple[list[SiteTally], TokenTally]:
        return list(self.tallies.values()), self.by_token


def as_traces(traces: Trace | Sequence[Trace]) -> list[Trace]:
    """One trace or several as a list; InvalidTrace when there is none, or anything else."""
    items = [traces] if isinstance(traces, Trace) else list(traces) if isinstance(traces, Iterable) else [traces]
    if not items or not all(isinstance(trace, Trace) for trace in items):
        raise InvalidTrace("there is no trace to verify" if not items else "expected traces (see okr.Trace.load)")
    return items


def check_decoys(decoys: int, alpha: float) -> None:
    """InvalidSetting unless alpha lies within (0, 1) and that many decoys can reach it."""
    if isinstance(decoys, bool) or not isinstance(decoys, int) or not isinstance(alpha, int | float):
        raise InvalidSetting(f"decoys must be a whole number and alpha a number, got {decoys!r} and {alpha!r}")
    if not 0 < alpha < 1:
        raise InvalidSetting(f"alpha must lie between 0 and 1, got {alpha:g}")
    if (MOST_DECOYS + 1) * alpha < 1 - 1e-9:
        raise InvalidSetting(f"alpha = {alpha:g} is out of reach: the smallest is {1 / MOST_DECOYS:g}")
    if not 1 <= decoys <= MOST_DECOYS:
        raise InvalidSetting(f"decoys must lie between 1 and {MOST_DECOYS:,}, got {decoys}")
    if (decoys + 1) * alpha < 1 - 1e-9:
        raise InvalidSetting(f"alpha = {alpha:g} needs at least {math.ceil(1 / alpha - 1e-9) - 1} decoys, got {decoys}")


def z_score(claimed: float, others: Tensor) -> float:
    """The distance of ``claimed`` from the decoys' mean in their standard deviations; 0 where they do not differ."""
    spread = float(others.std()) if len(others) > 1 else 0.0
    return (claimed - float(others.mean())) / spread if spread > 0 else 0.0


def _verdict(
    tallies: Sequence[SiteTally],
    by_token: TokenTally,
    key: Key,
    alpha: float,
    dtypes: tuple[tuple[str, ...], str],
) -> TraceVerdict:
    matched, support = pooled(tallies)
    opportunities = sum(tally.opportunities for tally in tallies)
    free = sum(tally.free_slots for tally in tallies)
    claimed, others = float(matched[0]), matched[1:]
    better = int(at_least_as_good(others, support[1:], (claimed, float(support[0]))).sum())
    p_value = (1 + better) / len(matched) if opportunities else 1.0
    z = z_score(claimed, others)
    return TraceVerdict(
        key_id=key.id,
        p_value=p_value,
        exact=True,
        watermarked=p_value <= alpha,
        alpha=alpha,
        decoys=len(others),
        z=z,
        normal_p=float(ndtr(-z)),
        hit_rate=claimed / free if free else None,
        chance_rate=float(others.mean()) / free if free else None,
        opportunities=opportunities,
        free_slots=free,
        outside_zone=sum(tally.outside for tally in tallies),
        routed=sum(tally.routed for tally in tallies),
        tokens_needed=by_token.needed(alpha) if opportunities else None,
        dtypes=dtypes,
        sites=tuple(tally.score() for tally in tallies),
        tokens=by_token.scores(),
    )
