"""Pictures as SVG in one style. matplotlib is touched here and where figures are filled."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

KEYED, CONTROL = "#2f7ed8", "#e07b39"  # told apart by every common kind of colour vision, on light and dark
GREY = "#7a7a7a"  # readable on light and dark
INK = "#010203"  # stands for the page's text colour and becomes it
FILE: dict[str, Any] = {  # of a picture in a file of its own: the same bytes whenever it is drawn, text as text
    "svg.fonttype": "none",
    "svg.hashsalt": "okr",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PAGE: dict[str, Any] = FILE | {  # of a picture inside a page, whose colours it takes
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
    """Figures made in the ``with`` block have the ``style`` FILE or PAGE."""
    with mpl.rc_context(style):
        yield


def axes_of(width: float, height: float, **labels: str) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, with axes labelled so."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.set(**labels)  # type: ignore[arg-type]
    return figure, axes


def svg(figure: Figure) -> str:
    """A figure as an SVG element; what is INK takes the colour of the page's text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def standing_alone(element: str) -> str:
    """An SVG element of a page as the content of a file, where there is no text whose colour it could take."""
    return f"{element.replace('currentColor', GREY).rstrip()}\n"


def save(figure: Figure, path: Path) -> None:
    """Write a figure to an SVG file, whose folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
