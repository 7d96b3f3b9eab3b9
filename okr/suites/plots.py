"""The suites' figures as SVG elements."""

from collections.abc import Sequence
from itertools import cycle, zip_longest
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure_

from okr.pages.svg import INK, KEYED, PAGE, axes_of, drawing, svg
from okr.suites.figures import Figure
from okr.suites.runner import SuiteResults
from okr.suites.tables import amount, label

COLOURS = {  # told apart by every common kind of colour vision (Okabe and Ito), on light and dark
    "okr": "#2f7ed8", "okr, trace": "#17a2b8", "okr louder": "#2f7ed8", "okr louder, trace": "#17a2b8",
    "kgw": "#e07b39", "kgw louder": "#e07b39", "synthid": "#1e9e73", "synthid shallow": "#1e9e73", "none": "#888888",
}  # fmt: skip
_MARKERS = "osD^v*"


def suite_plots(results: SuiteResults) -> dict[str, str]:
    """Every plot by name; those without figures are left out."""
    with drawing(PAGE):
        found = [f for f in results.figures("found", "baselines") if f.level == 0.01 and f.value is not None]
        plots = {}
        if found:
            plots["power"] = _power(found)
            costs = {f.method: f for f in results.figures("held-out cost") if f.value is not None}
            plots["cost"] = _cost(found, costs)
        curves = [f for f in results.figures("found after attack") if f.level == 0.01 and f.value is not None]
        if curves:
            plots["attacks"] = _attack_curves(curves)
        changes = [f for f in results.figures("found after change") if f.level == 0.01 and f.value is not None]
        if changes:
            plots["changes"] = _changes(changes)
        registers = results.figures("register cost")
        if registers:
            plots["registers"] = _registers(registers)
        return plots


def _attack_curves(figures: Sequence[Figure]) -> str:
    """A panel an attack: what is found against the attack's strength, beginning with the untouched text."""
    untouched = [f for f in figures if f.condition == "not attacked"]
    conditions = [c for c in dict.fromkeys(f.condition for f in figures) if c != "not attacked"]
    rows = -(-len(conditions) // 3)
    figure = Figure_(figsize=(9.6, 2.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False, sharey=True)
    for axes, condition in zip_longest(panels.flat, conditions):
        if condition is None:
            axes.set_visible(False)
            continue
        own = [f for f in figures if f.condition == condition]
        _lines(axes, [*untouched, *own], lambda f: float(f.strength or 0.0))
        axes.set(title=condition, xlabel="strength (share)", ylim=(-0.05, 1.05))
        axes.title.set_fontsize(10)
    for row in panels:
        row[0].set_ylabel("share found, FPR 0.01")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=9)
    return svg(figure)


def _changes(figures: Sequence[Figure]) -> str:
    figure, axes = axes_of(9.6, 4.0, ylabel="share found, FPR 0.01", xlabel="change of the model and its strength")
    names = list(dict.fromkeys((f.condition, f.strength) for f in figures))
    for offset, method in zip((-0.12, 0.12), dict.fromkeys(f.method for f in figures), strict=False):
        own = {(f.condition, f.strength): f for f in figures if f.method == method}
        shown = [(place, own[name]) for place, name in enumerate(names) if name in own]
        axes.errorbar(
            [place + offset for place, _ in shown],
            [f.value or 0.0 for _, f in shown],
            yerr=[[_error(f)[side][0] for _, f in shown] for side in (0, 1)],
            linestyle="", marker="s" if "trace" in method else "o", color=COLOURS.get(method, INK), capsize=2,
            label=label(method),
        )  # fmt: skip
    ticks = ["\n".join([*_lines_of(c), *_lines_of(amount(c, s))]) for c, s in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=8)
    axes.set(ylim=(-0.05, 1.05))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return svg(figure)


def _lines_of(text: str) -> list[str]:
    """A label in narrow lines."""
    return wrap(text, 9, break_long_words=False, break_on_hyphens=False)


def _registers(figures: Sequence[Figure]) -> str:
    figure, axes = axes_of(7.4, 3.4, xlabel="register of the text", ylabel="added loss (nats per token)")
    own = [f for f in figures if f.value is not None]
    spread = [[_error(f)[side][0] for f in own] for side in (0, 1)]
    values = [f.value or 0.0 for f in own]
    axes.errorbar(range(len(own)), values, yerr=spread, linestyle="", marker="o", color=KEYED, capsize=3)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(own)), [f.condition for f in own])
    return svg(figure)


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
