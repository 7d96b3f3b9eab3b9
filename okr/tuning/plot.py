"""Draws the plot of a calibration."""

import numpy as np

from okr.pages.svg import CONTROL, KEYED, PAGE, axes_of, drawing, svg
from okr.tuning.sweep import Calibration


def calibration_plot(found: Calibration) -> str:
    """An SVG element with one mark for each setting: its cost and the tokens needed, from a trace and from text.
    Settings that cost 1 nat per token or more are left out."""
    with drawing(PAGE):
        labels = {"xlabel": "cost: held-out loss, keyed - unkeyed (nats per token)", "ylabel": "new tokens needed"}
        figure, axes = axes_of(7.2, 4.4, **labels)
        for evidence, colour, marker in (("trace", KEYED, "o"), ("text", CONTROL, "s")):
            points = [(line, getattr(line.needed[0], evidence)) for line in found.measured]
            points = [(line, tokens) for line, tokens in points if tokens is not None and line.cost < 1]
            axes.errorbar(
                [line.cost for line, _ in points],
                [tokens for _, tokens in points],
                xerr=[
                    [line.cost - line.cost_low for line, _ in points],
                    [line.cost_high - line.cost for line, _ in points],
                ],
                fmt=marker, color=colour, linewidth=1, label=f"from a {evidence}",
            )  # fmt: skip
            for line, tokens in points:
                name = f"{line.zone} {line.epsilon:g}" if line.strength == np.inf else f"strength {line.strength:g}"
                axes.annotate(name, (line.cost, tokens), (4, 5), textcoords="offset points", fontsize=8)
        level = found.measured[0].needed[0].fpr
        axes.set(yscale="log", title=f"for a true-positive rate of 0.95 at a false-positive rate of {level:g}")
        axes.legend(loc="upper right")
        return svg(figure)
