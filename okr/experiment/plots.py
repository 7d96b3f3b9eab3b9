"""The report's figures as SVG elements."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from okr.experiment.by_token import hit_rates_along, p_curve
from okr.experiment.results import Results, SiteResult
from okr.experiment.shares import layers
from okr.intervals import Interval
from okr.pages.svg import CONTROL, GREY, INK, KEYED, PAGE, axes_of, drawing, svg


def figures(results: Results) -> dict[str, str]:
    """Every figure of the report by name. ``proof`` and ``along`` need the counts by token."""
    with drawing(PAGE):
        drawn = {
            "p_values": _p_values(results),
            "hit_rates": _hit_rates(results),
            "layers": _layers(results),
            "load": _load(results),
            "costs": _costs(results),
            "proof": _proof(results),
            "along": _along(results),
        }
    return {name: figure for name, figure in drawn.items() if figure}


def _p_values(results: Results) -> str:
    figure, axes = axes_of(4.6, 3.2, xlabel="p-value (log scale)", ylabel="share of samples with this p-value or less")
    both = [*results.detailed_results, *results.control_results]
    least = min(results.summary.detection_threshold, *(sample.p_value for sample in both)) / 3
    grid = np.geomspace(least, 1, 200)
    axes.plot(grid, grid, color=INK, linewidth=1, linestyle=":", label="at most this without a key")
    for name, colour, style, p_values in (
        ("watermarked", KEYED, "-", [sample.p_value for sample in results.detailed_results]),
        ("control", CONTROL, "-.", [sample.p_value for sample in results.control_results]),
    ):
        shares = np.arange(1, len(p_values) + 1) / len(p_values)
        x = [least, *sorted(p_values), 1.0]
        axes.step(x, [0, *shares, 1], where="post", color=colour, linestyle=style, linewidth=2, label=name)
    axes.axvline(results.summary.detection_threshold, color=INK, linewidth=1, linestyle="--", label="threshold")
    axes.set(xscale="log", ylim=(-0.02, 1.04), xlim=(least, 1.05 / least**0.02))
    axes.legend(loc="center right", bbox_to_anchor=(0.86, 0.42), fontsize=9)
    return svg(figure)


def _hit_rates(results: Results) -> str:
    figure, axes = axes_of(4.6, 3.2, xlabel="hit rate (share of free slots)", ylabel="samples")
    known = [sample.hit_rate or 1.0 for sample in (*results.detailed_results, *results.control_results)]
    least = max(0.0, min(known) - 0.1)
    bins = np.linspace(least, 1, 41)
    for name, colour, hatch, samples in (
        ("watermarked", KEYED, "", results.detailed_results),
        ("control", CONTROL, "////", results.control_results),
    ):
        rates = [sample.hit_rate for sample in samples if sample.hit_rate is not None]
        axes.hist(rates, bins=bins.tolist(), color=colour, alpha=0.8, hatch=hatch, edgecolor=INK, label=name)
    chance = [s.verdict.chance_rate for s in results.control_results if s.verdict.chance_rate is not None]
    if chance:
        axes.axvline(float(np.mean(chance)), color=INK, linestyle="--", linewidth=1, label="chance, control")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlim=(least, 1.0))
    _legend_below(axes, 3)
    return svg(figure)


def _short(site: SiteResult) -> str:
    return f"{site.stack} {site.layer}"


def _layers(results: Results) -> str:
    found = layers(results)
    figure, axes = axes_of(4.6, 3.2, xlabel="router (stack and layer)", ylabel="hit rate, mean of samples")
    for shift, name, colour, marker, rates, chances in (
        (-0.12, "watermarked", KEYED, "o", [f.keyed for f in found], [f.site.chance_rate for f in found]),
        (0.12, "control", CONTROL, "s", [f.control for f in found], [f.site.control_chance_rate for f in found]),
    ):
        place = [index + shift for index in range(len(found))]
        _with_intervals(axes, place, rates, color=colour, marker=marker, markersize=6, label=name)
        values = [np.nan if chance is None else chance for chance in chances]
        axes.plot(place, values, "_", markersize=14, markeredgewidth=2, color=colour, label=f"{name}, chance")
    step = -(-len(found) // 14)
    names = [_short(layer.site) for layer in found[::step]]
    axes.set_xticks(range(0, len(found), step), names, rotation=45 if len(found) > 4 else 0)
    axes.set(xlim=(-0.6, len(found) - 0.4))
    axes.margins(y=0.1)
    _legend_below(axes, 2)
    return svg(figure)


def _with_intervals(
    axes: Any, place: Sequence[float] | np.ndarray, rates: Sequence[Interval | None], **style: Any
) -> None:
    """Points with the ends of their intervals; a rate that is None is left out."""
    known = [(x, rate) for x, rate in zip(place, rates, strict=True) if rate is not None]
    x, middle = [x for x, _ in known], [rate.value for _, rate in known]
    ends = [[rate.value - rate.low for _, rate in known], [rate.high - rate.value for _, rate in known]]
    axes.errorbar(x, middle, yerr=ends, linestyle="", capsize=3, **style)


def _legend_below(axes: Any, columns: int) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=9, ncols=columns)


def _proof(results: Results) -> str:
    figure, axes = axes_of(4.6, 3.2, xlabel="tokens of the trace that are looked at", ylabel="p-value (log scale)")
    for name, colour, style, samples in (
        ("watermarked", KEYED, "-", results.detailed_results),
        ("control", CONTROL, "-.", results.control_results),
    ):
        curve = p_curve(samples)
        if curve is None:
            return ""
        place = np.arange(1, len(curve.median) + 1)
        axes.plot(place, curve.median, style, color=colour, linewidth=2, label=f"{name}, median")
        axes.fill_between(place, curve.smallest, curve.largest, color=colour, alpha=0.25, linewidth=0)
    axes.axhline(results.summary.detection_threshold, color=INK, linewidth=1, linestyle="--", label="threshold")
    axes.set(yscale="log")
    _legend_below(axes, 2)
    return svg(figure)


def _along(results: Results) -> str:
    figure, axes = axes_of(4.6, 3.2, xlabel="token of the trace", ylabel="hit rate, mean of samples")
    for name, colour, marker, samples in (
        ("watermarked", KEYED, "o", results.detailed_results),
        ("control", CONTROL, "s", results.control_results),
    ):
        found = hit_rates_along(samples, 12)
        if not found:
            return ""
        place, rates = [middle for middle, _ in found], [rate for _, rate in found]
        _with_intervals(axes, place, rates, color=colour, marker=marker, markersize=5, label=name)
    axes.margins(y=0.1)
    _legend_below(axes, 2)
    return svg(figure)


def _costs(results: Results) -> str:
    quality = results.quality
    figure, axes = axes_of(4.6, 3.2, xlabel="keyed loss less unkeyed loss, nats per token", ylabel="passages")
    differences = np.asarray(quality.losses_keyed) - np.asarray(quality.losses_unkeyed)
    axes.hist(differences, bins=min(24, max(4, len(differences) // 3)), color=GREY, alpha=0.6, label="passages")
    axes.axvspan(quality.cost_low, quality.cost_high, color=KEYED, alpha=0.35, label="mean, 95% interval")
    axes.axvline(quality.cost, color=KEYED, linewidth=2)
    axes.axvline(0.0, color=INK, linewidth=1, linestyle="--", label="no cost")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _legend_below(axes, 3)
    return svg(figure)


def _load(results: Results) -> str:
    sites = [site for site in results.router_sites if site.keyable]
    widest = max(site.num_experts for site in sites)
    grids = {name: _shares(sites, widest, name) for name in ("load", "control_load")}
    top = max(2.0, float(np.nanquantile(np.concatenate([g.ravel() for g in grids.values()]), 0.99)))
    figure = Figure(figsize=(4.6, 2.4 + 0.3 * min(len(sites), 26)), layout="constrained")
    step = -(-len(sites) // 13)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, grid, title in zip(panels, grids.values(), ("watermarked", "control"), strict=True):
        image = axes.imshow(grid, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=top)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(0, len(sites), step), [_short(site) for site in sites[::step]])
        image.set_rasterized(True)
    panels[1].set(xlabel="expert (index)")
    bar: Any = figure.colorbar(image, ax=panels, shrink=0.9)
    bar.set_label("load / even load")
    return svg(figure)


def _shares(sites: Sequence[SiteResult], widest: int, name: str) -> np.ndarray:
    """[sites, widest]: each expert's share of its site's load over that of an even load; NaN beyond its experts."""
    grid = np.full((len(sites), widest), np.nan)
    for row, site in enumerate(sites):
        counts = np.asarray(getattr(site, name), float)
        grid[row, : len(counts)] = counts / max(counts.sum(), 1) * len(counts)
    return grid
