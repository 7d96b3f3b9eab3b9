"""What a trace shows: for every site the choice scores, states and experts at the tokens where a key could decide."""

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
    """One site's share of one trace: T opportunities, E experts, k kept.

    ``routed``: tokens whose routing was recorded; ``outside``: expert slots at opportunities outside pool and locked
    set; ``tokens``: where each opportunity is, as an index into the trace's decoder tokens (-1: in the encoder).
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
    """Replay ``trace`` and keep what a test needs, site by site. ``skip_prompt`` leaves out the tokens that were given
    (all of an encoder's). Raises InvalidTrace when the trace is another model's."""
    found: list[SiteEvidence] = []

    def observe(site: RouterSite, choice: Tensor, hidden: Tensor, experts: Tensor) -> None:
        found.append(_site_evidence(site, setting, choice, hidden, experts, trace.prompt_length if skip_prompt else 0))

    engine.replay(trace, observe)
    return found


def _site_evidence(
    site: RouterSite, setting: Setting, choice: Tensor, hidden: Tensor, experts: Tensor, skip: int
) -> SiteEvidence:
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
    """What to test for: the arguments, or what the trace's header says where they are None."""
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
    """The evidence of each trace in turn, one trace in memory at a time."""
    for trace in traces:
        setting = trace_setting(trace, epsilon, zone, strength)
        yield gather_evidence(engine, trace, setting, skip_prompt=skip_prompt)
