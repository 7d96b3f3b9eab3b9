"""Draws the plot of a calibration."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from okr.pages.svg import CONTROL, KEYED, PAGE, axes_of, drawing, svg
from okr.tuning.sweep import PROVEN, Calibration, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calibration_plot(found: Calibration) -> str:
    """An SVG element with two marks for each setting: its cost and the tokens needed, from a trace and from text.
    Settings that cost 1 nat per token or more are left out."""
    with drawing(PAGE):
        labels = {"xlabel": "cost: held-out loss, keyed - unkeyed (nats per token)", "ylabel": "new tokens needed"}
        figure, axes = axes_of(7.2, 4.4, **labels)
        level = found.target.fpr
        by_trace = [(line, line.trace_tokens) for line in found.measured]
        by_text = [(line, line.text_at(level).tokens) for line in found.measured]
        for label, points, chosen, colour, marker in (
            (f"from a trace (p at most {PROVEN:g})", by_trace, found.quiet, KEYED, "o"),
            (f"from text (false-positive rate {level:g})", by_text, found.loud, CONTROL, "s"),
        ):
            _draw(axes, label, points, colour, marker)
            if chosen is not None and chosen.cost < 1:
                name = "quiet" if chosen is found.quiet else "loud"
                axes.annotate(name, (chosen.cost, chosen.tokens), (4, -12), textcoords="offset points", color=colour)
        axes.set(yscale="log", title="for a true-positive rate of 0.95")
        _scale(axes)
        axes.legend(loc="best")
        return svg(figure)


def _scale(axes: "Axes") -> None:
    """A scale of costs that is linear up to 0.01, where many settings lie, and logarithmic beyond."""
    low, high = axes.get_xlim()
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xticks([0, 0.005, 0.01, 0.1, 1], ["0", "0.005", "0.01", "0.1", "1"])
    axes.set_xlim(min(low, -0.002), max(high, 0.012))


def _draw(
    axes: "Axes", label: str, points: Sequence[tuple[Measured, int | None]], colour: str, marker: str
) -> None:  # fmt: skip
    """Draw a mark with its interval for each setting that finds the key."""
    shown = [(line, tokens) for line, tokens in points if tokens is not None and line.cost < 1]
    below = [line.cost - line.cost_low for line, _ in shown]
    above = [line.cost_high - line.cost for line, _ in shown]
    axes.errorbar(
        [line.cost for line, _ in shown],
        [tokens for _, tokens in shown],
        xerr=[below, above],
        fmt=marker,
        color=colour,
        linewidth=1,
        label=label,
    )
    for line, tokens in shown:
        name = f"{line.zone} {line.epsilon:g}" if line.strength == math.inf else f"{line.strength:g}"
        axes.annotate(name, (line.cost, tokens), (4, 5), textcoords="offset points", fontsize=8)
