"""Gathers the evidence in a trace: for every site the choice scores, states and experts at the opportunities."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from okr.discovery import RouterSite
from okr.engines import Engine
from okr.errors import InvalidSetting
from okr.routing import Setting, find_zone
from okr.routing.settings import ZoneName
from okr.traces import Trace


@dataclass(frozen=True)
class SiteEvidence:
    """One site's evidence in one trace, at T opportunities with E experts of which k ran.

    Attributes:
        site: the site.
        strength: the strength of the setting.
        choice: the choice scores [T, E].
        hidden: the router's input [T, d].
        experts: the experts that ran [T, k].
        pool: the experts that compete [T, E].
        locked: the experts that run whatever the key says [T, E].
        free: the number of free slots [T].
        tokens: the place of each opportunity among the trace's decoder tokens, or -1 for an encoder's token [T].
        routed: how many tokens have recorded routing.
        outside: how many expert slots at opportunities hold an expert outside pool and locked experts.
    """

    site: RouterSite
    strength: float
    choice: Float[Tensor, "tokens experts"]
    hidden: Float[Tensor, "tokens hidden_size"]
    experts: Int[Tensor, "tokens top_k"]
    pool: Bool[Tensor, "tokens experts"]
    locked: Bool[Tensor, "tokens experts"]
    free: Int[Tensor, " tokens"]
    tokens: Int[Tensor, " tokens"]
    routed: int
    outside: int


def gather_evidence(engine: Engine, trace: Trace, setting: Setting, *, skip_prompt: bool) -> list[SiteEvidence]:
    """Replay ``trace`` and return the evidence of each site under ``setting``.

    ``skip_prompt`` leaves out the given tokens, and all of an encoder's. Raises InvalidTrace if another model made the
    trace.
    """
    found: list[SiteEvidence] = []

    def observe(site: RouterSite, choice: Tensor, hidden: Tensor, experts: Tensor) -> None:
        found.append(_site_evidence(site, setting, choice, hidden, experts, trace.prompt_length if skip_prompt else 0))

    engine.replay(trace, observe)
    return found


def _site_evidence(
    site: RouterSite, setting: Setting, choice: Tensor, hidden: Tensor, experts: Tensor, skip: int
) -> SiteEvidence:
    """The evidence at ``site`` from what a replay shows: choice scores [T, E], the router's input [T, d] and the
    experts that ran [T, k]. The first ``skip`` decoder tokens are left out."""
    zone = find_zone(choice, top_k=site.top_k, epsilon=setting.epsilon, zone=setting.zone)
    tokens = torch.arange(len(choice), device=choice.device)
    encoder = site.stack.startswith("encoder")
    recorded = (experts >= 0).all(-1) & (tokens >= (len(tokens) if encoder and skip else skip))
    here = zone.opportunity & recorded & hidden.isfinite().all(-1)
    choice, hidden, experts, pool, locked, free, tokens = (
        part[here] for part in (choice, hidden, experts, zone.pool, zone.locked, zone.free, tokens)
    )
    return SiteEvidence(
        site=site,
        strength=setting.strength,
        choice=choice,
        hidden=hidden,
        experts=experts,
        pool=pool,
        locked=locked,
        free=free,
        tokens=torch.full_like(tokens, -1) if encoder else tokens,
        routed=int(recorded.sum()),
        outside=int((~(pool | locked).gather(-1, experts)).sum()),
    )


def trace_setting(trace: Trace, epsilon: float | None, zone: ZoneName | None, strength: float | None) -> Setting:
    """The setting to test for: the arguments, or the values in the trace's header for those that are None. Raises
    InvalidSetting if a value is missing or out of range."""
    header = trace.header
    epsilon = header.epsilon if epsilon is None else epsilon
    zone = header.zone if zone is None else zone
    strength = header.strength if strength is None else strength
    if epsilon is None or zone is None or strength is None:
        raise InvalidSetting("this trace was recorded without a key: say which epsilon, zone and strength to test for")
    return Setting.checked(epsilon, zone, strength)


def all_evidence(
    engine: Engine,
    traces: list[Trace],
    *,
    epsilon: float | None,
    zone: ZoneName | None,
    strength: float | None,
    skip_prompt: bool,
) -> Iterator[list[SiteEvidence]]:
    """Yield the evidence of each trace in turn. Only one trace's evidence is in memory at a time."""
    for trace in traces:
        setting = trace_setting(trace, epsilon, zone, strength)
        yield gather_evidence(engine, trace, setting, skip_prompt=skip_prompt)
