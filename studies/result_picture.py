"""Draws the picture of the README from stored figures: what is found by length, and what that costs.

python studies/result_picture.py docs/figures/result.svg
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from okr.pages.svg import PAGE, drawing, standing_alone, svg

DATA = Path(__file__).parents[1] / "docs" / "data"
MODEL, TEXTS = "tiny-deepseek-moe", 200
METHODS = {  # of the suites: name in the picture, colour (Okabe and Ito), marker
    "synthid": ("SynthID, text", "#1e9e73", "^"),
    "kgw": ("KGW, text", "#e07b39", "s"),
    "okr": ("OKR loud, text", "#8a63d2", "D"),
}
QUIET, QUIET_COLOUR = "OKR quiet, trace", "#2f7ed8"


@dataclass(frozen=True)
class Figures:
    """What the picture shows: (tokens, share, low, high) by method, and (cost, low, high) by method."""

    found: dict[str, list[tuple[float, ...]]]
    cost: dict[str, tuple[float, ...]]


def numbers(cell: str) -> tuple[float, ...]:
    """The numbers of a cell such as ``0.0003 (-0.0002 to 0.0008)``."""
    return tuple(float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell))


def row(name: str, **wanted: object) -> dict[str, str]:
    """The one row of docs/data/``name``.json that has the ``wanted`` values."""
    rows = json.loads((DATA / f"{name}.json").read_text("utf-8"))["rows"]
    (found,) = [one for one in rows if all(one[key.replace("_", " ")] == value for key, value in wanted.items())]
    return found


def suites() -> Iterator[dict]:
    """Each figure of the suites that were run on the model."""
    document = json.loads((DATA / f"evidence-{MODEL}.json").read_text("utf-8"))
    for cell in document["suites"]["cells"]:
        yield from ({"suite": cell["suite"]} | figure for figure in cell["figures"])


def load() -> Figures:
    """The stored figures."""
    own = [one for one in suites() if one["method"] in METHODS and one["suite"] == "baselines"]
    found: dict[str, list[tuple[float, ...]]] = {}
    for one in own:
        if one["measure"] == "found" and one["level"] == 0.01 and one["samples"] == TEXTS:
            found.setdefault(one["method"], []).append((one["tokens"], one["value"], one["low"], one["high"]))
    short = row("short-traces", model=MODEL, strength=0.1, made_in="float32", judged_in="float32")
    proven = (16.0, *numbers(str(short["proven after 16 (95%)"])))
    half, most = float(short["tokens for half"]), float(short["tokens for 95%"])
    found["quiet"] = [(half, 0.5, 0.5, 0.5), (most, 0.95, 0.95, 0.95), proven]
    costs = {one["method"]: one for one in own if one["measure"] == "held-out cost"}
    cost = {method: tuple(costs[method][part] for part in ("value", "low", "high")) for method in ("okr", "kgw")}
    cost["quiet"] = numbers(row("baked", model=MODEL, strength=0.1)["cost live"])
    return Figures(found, cost)


def draw_found(axes: Axes, figures: Figures) -> None:
    """What share of the texts is found, by the number of new tokens."""
    styles = {"quiet": (QUIET, QUIET_COLOUR, "o"), **METHODS}
    for method, (label, colour, marker) in styles.items():
        points = sorted(figures.found[method])
        tokens, share, low, high = zip(*points, strict=True)
        spread = [[s - a for s, a in zip(share, low, strict=True)], [b - s for s, b in zip(share, high, strict=True)]]
        axes.errorbar(tokens, share, spread, color=colour, marker=marker, markersize=5, capsize=2.5, label=label)
    axes.set(xscale="log", xlim=(4, 160), ylim=(-0.03, 1.05), xlabel="new tokens", ylabel="share of texts found")
    axes.set_xticks([5, 9, 16, 30, 60, 120], ["5", "9", "16", "30", "60", "120"])
    axes.minorticks_off()
    axes.set_title("How much text a proof needs", fontsize=11)
    axes.legend(fontsize=9, loc="center right", bbox_to_anchor=(1.0, 0.64))


def draw_cost(axes: Axes, figures: Figures) -> None:
    """What each method adds to the loss on held-out text, with its 95% interval."""
    rows = [(QUIET, "quiet", QUIET_COLOUR), *((METHODS[one][0], one, METHODS[one][1]) for one in ("okr", "kgw"))]
    for place, (_, method, colour) in enumerate(rows):
        value, low, high = figures.cost[method]
        axes.errorbar([value], [-place], xerr=[[value - low], [high - value]], color=colour, marker="o", capsize=3)
    axes.text(0.0006, -len(rows), "none on average over keys", color=METHODS["synthid"][1], fontsize=9, va="center")
    axes.axvline(0, color="#7a7a7a", linewidth=0.8)
    labels = [*(label for label, _, _ in rows), METHODS["synthid"][0]]
    axes.set_yticks([-place for place in range(len(labels))], labels)
    axes.set(ylim=(-len(labels) + 0.4, 0.6), xlabel="added loss, nats per token")
    axes.set_title("What it costs", fontsize=11)


def picture() -> str:
    """The picture, as the content of an SVG file that is readable on light and on dark pages."""
    with drawing(PAGE):
        figure = Figure(figsize=(9.6, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        figures = load()
        draw_found(left, figures)
        draw_cost(right, figures)
        return standing_alone(svg(figure))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the SVG file to write")
    parser.parse_args().out.write_text(picture(), encoding="utf-8")
