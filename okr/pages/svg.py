"""Draws plots as SVG in one style. Only this module, and the functions that fill its figures, use matplotlib."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

KEYED, CONTROL = "#2f7ed8", "#e07b39"  # distinct in every common kind of colour vision, on light and dark pages
GREY = "#7a7a7a"  # readable on light and dark pages
INK = "#010203"  # a placeholder, replaced by the colour of the page's text
FILE: dict[str, Any] = {  # for a plot in its own file: the same bytes at each drawing, text as text
    "svg.fonttype": "none",
    "svg.hashsalt": "okr",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PAGE: dict[str, Any] = FILE | {  # for a plot inside a page, in the colours of the page
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@contextmanager
def drawing(style: Any) -> Iterator[None]:
    """Draw the figures made within the block in ``style``, which is FILE or PAGE."""
    with mpl.rc_context(style):
        yield


def axes_of(width: float, height: float, **labels: str) -> tuple[Figure, Axes]:
    """An empty figure of ``width`` x ``height`` inches, and its axes with the ``labels`` (xlabel, ylabel, title
    ...)."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.set(**labels)  # type: ignore[arg-type]
    return figure, axes


def svg(figure: Figure) -> str:
    """The figure as an SVG element. INK becomes the colour of the page's text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def standing_alone(element: str) -> str:
    """The SVG ``element`` of a page as the content of a file. There is no page's text, so its colour becomes GREY."""
    return f"{element.replace('currentColor', GREY).rstrip()}\n"


def save(figure: Figure, path: Path) -> None:
    """Write the figure to the SVG file ``path``. Its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
