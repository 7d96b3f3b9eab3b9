"""Verification of traces: forced replay, decoy keys, exact p-value (spec chapter VERIFY).

Null hypothesis: the trace was made without knowledge of the claimed key. Then the key's projections are, given the
trace, uniform +1/-1 matrices, and so are their images under permutations of columns and changes of their signs. The
claimed key's statistic is therefore exchangeable with those of such images (the decoys), and its rank among them is
uniform, however dependent the tokens are: a randomisation test (Hemerik and Goeman 2018, Theorem 2).
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor, nn

from okr.attach import Setting, replay
from okr.attach.routings import Projector
from okr.detection.decoys import Decoys, matches
from okr.detection.verdict import SiteScore, Verdict
from okr.discovery import RouterSite
from okr.errors import InvalidSetting, InvalidTrace
from okr.routing import Key, check_setting, find_zone
from okr.traces import Trace

_CHUNK = 2**22  # scores held at once: keys x tokens x experts


def verify(
    model: nn.Module,
    traces: Trace | Sequence[Trace],
    key: Key,
    *,
    decoys: int = 999,
    epsilon: float | None = None,
    zone: str | None = None,
    strength: float | None = None,
    alpha: float = 0.001,
) -> Verdict:
    """Whether ``key`` decided the routing that ``traces`` recorded; several traces are one pooled test.

    Arguments: settings that are None are what the traces' headers say. The p-value is exact and at least
    1 / (decoys + 1). Deterministic: the decoys are drawn from a hash of the traces and the key id. Raises InvalidTrace
    when a trace is another model's, InvalidSetting when a setting is missing or alpha cannot be reached.
    """
    items = [traces] if isinstance(traces, Trace) else list(traces)
    if not items:
        raise InvalidTrace("there is no trace to verify")
    if decoys < 1 or not 0 < alpha < 1 or (decoys + 1) * alpha < 1 - 1e-9:
        raise InvalidSetting(
            f"alpha = {alpha:g} needs 0 < alpha < 1 and at least {math.ceil(1 / alpha - 1e-9) - 1 if alpha > 0 else 1} "
            f"decoys, got {decoys}"
        )
    tallies: dict[str, _Tally] = {}
    seed = hashlib.sha256(key.id.encode() + b"".join(trace.digest() for trace in items)).digest()
    for trace in items:
        setting = _setting(trace, epsilon, zone, strength)

        def observe(site: RouterSite, choice: Tensor, hidden: Tensor, experts: Tensor, s: Setting = setting) -> None:
            if site.path not in tallies:
                check_setting(site.top_k, site.num_experts, s.epsilon, s.zone, s.strength)
                tallies[site.path] = _Tally(site, key, decoys, seed)
            tallies[site.path].add(choice, hidden, experts, s)

        replay(model, trace, observe)
    return _verdict(list(tallies.values()), key, decoys, alpha)


def _setting(trace: Trace, epsilon: float | None, zone: str | None, strength: float | None) -> Setting:
    header = trace.header
    epsilon = header.epsilon if epsilon is None else epsilon
    zone = header.zone if zone is None else zone
    strength = header.strength if strength is None else strength
    if epsilon is None or zone is None or strength is None:
        raise InvalidSetting("this trace was recorded without a key: say which epsilon, zone and strength to test for")
    return Setting(epsilon, zone, strength)


class _Tally:
    """Counts of one site over any number of traces, for the claimed key and all its decoys."""

    def __init__(self, site: RouterSite, key: Key, decoys: int, seed: bytes) -> None:
        self.site, self.project = site, Projector(site, key)
        site_seed = hashlib.sha256(seed + site.path.encode()).digest()
        self.decoys = Decoys.draw(decoys, site.num_experts, site_seed)
        self.matched = torch.zeros(decoys + 1, dtype=torch.float64)
        self.routed = self.opportunities = self.free_slots = self.outside = 0

    def add(
        self,
        choice: Float[Tensor, "tokens experts"],
        hidden: Float[Tensor, "tokens hidden_size"],
        experts: Int[Tensor, "tokens top_k"],
        setting: Setting,
    ) -> None:
        """Count one trace's tokens at this site."""
        zone = find_zone(choice, top_k=self.site.top_k, epsilon=setting.epsilon, zone=setting.zone)
        claimed = self.project(hidden)
        recorded = (experts >= 0).all(-1)
        here = zone.opportunity & recorded & claimed.isfinite().all(-1)
        choice, claimed, experts, pool, locked, free = (
            part[here] for part in (choice, claimed, experts, zone.pool, zone.locked, zone.free)
        )
        self.routed += int(recorded.sum())
        self.opportunities += len(experts)
        self.free_slots += int(free.sum())
        self.outside += int((~(pool | locked).gather(-1, experts)).sum())
        if len(experts):
            step = max(1, _CHUNK // choice.numel())
            for first in range(0, len(self.matched), step):
                scores = self.decoys.scores(claimed, first, first + step)
                hits = matches(choice, scores, experts, pool, locked, setting.strength)
                self.matched[first : first + step] += hits.cpu()


def _verdict(tallies: Sequence[_Tally], key: Key, decoys: int, alpha: float) -> Verdict:
    matched = torch.stack([tally.matched for tally in tallies]).sum(0)
    free = sum(tally.free_slots for tally in tallies)
    claimed, others = float(matched[0]), matched[1:]
    p_value = (1 + int((others >= claimed).sum())) / (decoys + 1)
    spread = float(others.std()) if decoys > 1 else 0.0
    z = (claimed - float(others.mean())) / spread if spread > 0 else 0.0
    return Verdict(
        key_id=key.id,
        p_value=p_value,
        exact=True,
        watermarked=p_value <= alpha,
        alpha=alpha,
        decoys=decoys,
        z=z,
        normal_p=float(norm.sf(z)),
        hit_rate=claimed / free if free else None,
        chance_rate=float(others.mean()) / free if free else None,
        opportunities=sum(tally.opportunities for tally in tallies),
        free_slots=free,
        outside_zone=sum(tally.outside for tally in tallies),
        routed=sum(tally.routed for tally in tallies),
        sites=tuple(
            SiteScore(
                path=tally.site.path,
                opportunities=tally.opportunities,
                free_slots=tally.free_slots,
                hit_rate=float(tally.matched[0]) / tally.free_slots if tally.free_slots else None,
                chance_rate=float(tally.matched[1:].mean()) / tally.free_slots if tally.free_slots else None,
            )
            for tally in tallies
        ),
    )
