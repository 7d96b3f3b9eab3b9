"""The shares and means that a report shows, each with its 95% interval over samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from okr.experiment.results import Results, SiteResult
from okr.experiment.sample_results import ControlSample, SiteShare, WatermarkedSample
from okr.intervals import Interval, mean, share

AnySample = WatermarkedSample | ControlSample


@dataclass(frozen=True)
class GroupShares:
    """What one group of samples shows. A rate is None where no sample has an opportunity."""

    name: str
    samples: int
    watermarked: int
    found: Interval
    hit_rate: Interval | None
    chance_rate: Interval | None
    swaps: Interval
    smallest_p: float
    largest_p: float


@dataclass(frozen=True)
class LayerShares:
    """What one router shows in both groups: its hit rates, and how many swaps it makes in a sample."""

    site: SiteResult
    keyed: Interval | None
    control: Interval | None
    swaps: Interval
    control_swaps: Interval


def groups(results: Results) -> tuple[GroupShares, GroupShares]:
    """Both groups, the watermarked one first."""
    return _group("watermarked", results.detailed_results), _group("control", results.control_results)


def layers(results: Results) -> list[LayerShares]:
    """Every router that can be keyed, in the model's order."""
    return [_layer(site, results) for site in results.router_sites if site.keyable]


def tokens_needed(results: Results) -> tuple[int, int, int] | None:
    """The median, smallest and largest number of tokens after which a watermarked sample was proven; None unless every
    sample was."""
    needed = [sample.verdict.tokens_needed for sample in results.detailed_results]
    known = [count for count in needed if count is not None]
    if not known or len(known) < len(needed):
        return None
    return round(float(np.median(known))), min(known), max(known)


def _group(name: str, samples: Sequence[AnySample]) -> GroupShares:
    found = sum(sample.verdict.watermarked for sample in samples)
    p_values = [sample.p_value for sample in samples]
    return GroupShares(
        name=name,
        samples=len(samples),
        watermarked=found,
        found=share(found, len(samples)),
        hit_rate=_rate([sample.verdict.hit_rate for sample in samples]),
        chance_rate=_rate([sample.verdict.chance_rate for sample in samples]),
        swaps=mean([sample.verdict.swaps for sample in samples], least=0.0),
        smallest_p=min(p_values),
        largest_p=max(p_values),
    )


def _layer(site: SiteResult, results: Results) -> LayerShares:
    keyed, control = (_shares(site.path, group) for group in (results.detailed_results, results.control_results))
    return LayerShares(
        site=site,
        keyed=_rate([part.hit_rate for part in keyed]),
        control=_rate([part.hit_rate for part in control]),
        swaps=mean([part.swaps for part in keyed] or [0.0], least=0.0),
        control_swaps=mean([part.swaps for part in control] or [0.0], least=0.0),
    )


def _shares(path: str, samples: Sequence[AnySample]) -> list[SiteShare]:
    return [part for sample in samples for part in sample.verdict.sites if part.path == path]


def _rate(rates: Sequence[float | None]) -> Interval | None:
    known = [rate for rate in rates if rate is not None]
    return mean(known, least=0.0, most=1.0) if known else None
