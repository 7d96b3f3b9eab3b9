"""The suites' figures as inline SVG, in the style of the run's own (okr.experiment.plots)."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from okr.evidence.figures import Figure
from okr.evidence.suites import SuiteResults
from okr.evidence.tables import label
from okr.experiment.plots import INK, STYLE, axes_of, svg

COLOURS = {  # told apart by every common kind of colour vision (Okabe and Ito), on light and dark
    "okr": "#2f7ed8", "okr, trace": "#17a2b8", "okr louder": "#2f7ed8", "okr louder, trace": "#17a2b8",
    "kgw": "#e07b39", "kgw louder": "#e07b39", "synthid": "#1e9e73", "synthid shallow": "#1e9e73", "none": "#888888",
}  # fmt: skip
_MARKERS = "osD^v*"


def suite_plots(results: SuiteResults) -> dict[str, str]:
    """Every plot by name; those without figures are left out."""
    with mpl.rc_context(STYLE):
        found = [f for f in results.figures("found", "baselines") if f.level == 0.01 and f.value is not None]
        plots = {}
        if found:
            plots["power"] = _power(found)
            costs = {f.method: f for f in results.figures("held-out cost") if f.value is not None}
            plots["cost"] = _cost(found, costs)
        return plots


def _power(figures: Sequence[Figure]) -> str:
    figure, axes = axes_of(7.4, 4.0, xlabel="new tokens judged", ylabel="share of texts found at FPR 0.01")
    lengths = sorted({f.tokens or 0 for f in figures})
    _lines(axes, figures, lambda f: float(f.tokens or 0))
    axes.set(xscale="log", ylim=(-0.03, 1.03))
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return svg(figure)


def _cost(figures: Sequence[Figure], costs: dict[str, Figure]) -> str:
    figure, axes = axes_of(7.4, 4.0, xlabel="held-out cost (nats per token)", ylabel="share of texts found at FPR 0.01")
    longest = max(f.tokens or 0 for f in figures)
    markers = cycle(_MARKERS)
    for f in figures:
        cost = costs.get(f.method.removesuffix(", trace"))
        if f.tokens != longest or cost is None:
            continue
        axes.errorbar([cost.value or 0.0], [f.value or 0.0], xerr=_error(cost), yerr=_error(f), marker=next(markers),
                      linestyle="", color=COLOURS.get(f.method, INK), capsize=2, label=label(f.method))  # fmt: skip
    axes.set(ylim=(-0.03, 1.03), title=f"{longest} new tokens")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return svg(figure)


def _lines(axes: Axes, figures: Sequence[Figure], x: Any) -> None:
    """One line with error bars a method."""
    for method in dict.fromkeys(f.method for f in figures):
        own = sorted((f for f in figures if f.method == method), key=x)
        bars = [_error(f) for f in own]
        axes.errorbar(
            [x(f) for f in own],
            [f.value or 0.0 for f in own],
            yerr=[[b[0][0] for b in bars], [b[1][0] for b in bars]],
            color=COLOURS.get(method, INK),
            linestyle="--" if "louder" in method or "shallow" in method else "-",
            marker="s" if "trace" in method else "o", markersize=4, capsize=2, label=label(method),
        )  # fmt: skip


def _error(figure: Figure) -> list[list[float]]:
    value = figure.value or 0.0
    low = value if figure.low is None else figure.low
    high = value if figure.high is None else figure.high
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
