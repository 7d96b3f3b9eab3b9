"""The report's figures as SVG elements."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from okr.experiment.results import Results, SiteResult
from okr.pages.svg import CONTROL, INK, KEYED, PAGE, axes_of, drawing, svg


def figures(results: Results) -> dict[str, str]:
    """Every figure of the report by name."""
    with drawing(PAGE):
        return {
            "p_values": _p_values(results),
            "hit_rates": _hit_rates(results),
            "layers": _layers(results),
            "load": _load(results),
        }


def _p_values(results: Results) -> str:
    figure, axes = axes_of(5.6, 3.4, xlabel="p-value (log scale)", ylabel="share of samples with this p-value or less")
    both = [*results.detailed_results, *results.control_results]
    least = min(results.summary.detection_threshold, *(sample.p_value for sample in both)) / 3
    grid = np.geomspace(least, 1, 200)
    axes.plot(grid, grid, color=INK, linewidth=1, linestyle=":", label="at most this without a key")
    for name, colour, style, p_values in (
        ("watermarked", KEYED, "-", [sample.p_value for sample in results.detailed_results]),
        ("control", CONTROL, "-", [sample.p_value for sample in results.control_results]),
    ):
        shares = np.arange(1, len(p_values) + 1) / len(p_values)
        x = [least, *sorted(p_values), 1.0]
        axes.step(x, [0, *shares, 1], where="post", color=colour, linestyle=style, linewidth=2, label=name)
    axes.axvline(results.summary.detection_threshold, color=INK, linewidth=1, linestyle="--", label="threshold")
    axes.set(xscale="log", ylim=(-0.02, 1.04), xlim=(least, 1.05 / least**0.02))
    axes.legend(loc="center right", bbox_to_anchor=(0.86, 0.42), fontsize=9)
    return svg(figure)


def _hit_rates(results: Results) -> str:
    figure, axes = axes_of(5.6, 3.4, xlabel="hit rate (share of free slots)", ylabel="samples")
    bins = np.linspace(0, 1, 41)
    for name, colour, samples in (
        ("watermarked", KEYED, results.detailed_results),
        ("control", CONTROL, results.control_results),
    ):
        rates = [sample.hit_rate for sample in samples if sample.hit_rate is not None]
        axes.hist(rates, bins=bins.tolist(), color=colour, alpha=0.8, label=name)
    chance = [s.verdict.chance_rate for s in results.control_results if s.verdict.chance_rate is not None]
    if chance:
        axes.axvline(float(np.mean(chance)), color=INK, linestyle="--", linewidth=1, label="chance, control")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlim=(0, 1.02))
    axes.legend(loc="upper left", fontsize=9)
    return svg(figure)


def _short(site: SiteResult) -> str:
    return f"{site.stack} {site.layer}"


def _layers(results: Results) -> str:
    sites = [site for site in results.router_sites if site.keyable]
    figure, axes = axes_of(5.6, 3.4, xlabel="router (stack and layer)", ylabel="hit rate, all samples")
    place = np.arange(len(sites))
    series: list[tuple[str, str, str, Sequence[float | None]]] = [
        ("watermarked", KEYED, "o", [site.hit_rate for site in sites]),
        ("its chance level", KEYED, "_", [site.chance_rate for site in sites]),
        ("control", CONTROL, "o", [site.control_hit_rate for site in sites]),
        ("its chance level", CONTROL, "_", [site.control_chance_rate for site in sites]),
    ]
    for name, colour, marker, rates in series:
        values = [np.nan if rate is None else rate for rate in rates]
        axes.plot(place, values, marker=marker, linestyle="", markersize=9 if marker == "o" else 16,
                  markeredgewidth=2, color=colour, label=name)  # fmt: skip
    step = -(-len(sites) // 14)
    axes.set_xticks(place[::step], [_short(site) for site in sites[::step]], rotation=45 if len(sites) > 4 else 0)
    axes.set(ylim=(0, 1.05), xlim=(-0.6, len(sites) - 0.4))
    axes.legend(loc="lower right", fontsize=9, ncols=2)
    return svg(figure)


def _load(results: Results) -> str:
    sites = [site for site in results.router_sites if site.keyable]
    widest = max(site.num_experts for site in sites)
    grids = {name: _shares(sites, widest, name) for name in ("load", "control_load")}
    top = max(2.0, float(np.nanquantile(np.concatenate([g.ravel() for g in grids.values()]), 0.99)))
    figure = Figure(figsize=(5.6, 2.4 + 0.3 * min(len(sites), 26)), layout="constrained")
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
