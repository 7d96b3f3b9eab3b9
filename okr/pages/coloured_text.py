"""Shows in a text where a key acted: the spans, and the tokens with swaps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from okr.pages.templating import template

SHADES = 3


@dataclass(frozen=True)
class Coloured:
    """A text with its spans.

    Attributes:
        title: what the text is.
        caption: what was found in it.
        pieces: the part of the text that each token adds.
        swaps: how many swaps each token has; tokens without an entry have none.
        spans: the first token of each span, the token after its last, and a label. They are in order and do not
            overlap.
    """

    title: str
    caption: str
    pieces: Sequence[str]
    swaps: Sequence[int]
    spans: Sequence[tuple[int, int, str]]


@dataclass(frozen=True)
class _Stretch:
    """The tokens of one span, or those between two; ``runs`` are parts of the text with their shade, 0 to SHADES."""

    number: int
    label: str
    runs: list[tuple[str, int]]


def coloured(text: Coloured) -> Markup:
    """The text in HTML, without the element around it.

    A span is a ``mark`` with a number, brackets and a label, so it can be told without colour and by a screen reader.
    A token with swaps is a ``span`` of class s1, s2 or s3 (three or more), which ``style`` underlines. Every text is
    escaped.
    """
    return Markup(template("okr.pages", "coloured_text.html").module.text(_stretches(text)))  # type: ignore[attr-defined]  # noqa: S704


def page(texts: Sequence[Coloured]) -> str:
    """A page of coloured texts: one HTML file that loads nothing."""
    return template("okr.pages", "coloured_page.html").render(
        texts=[(text, coloured(text)) for text in texts], style=style()
    )


def style() -> Markup:
    """The CSS rules of coloured texts. They use the custom property ``--keyed``, a colour."""
    return Markup(template("okr.pages", "coloured_style.html").render())  # noqa: S704


def _stretches(text: Coloured) -> list[_Stretch]:
    """The text cut at the ends of its spans. Stretches outside have the number 0."""
    found, done = [], 0
    for number, (start, end, label) in enumerate(text.spans, 1):
        found += [_Stretch(0, "", _runs(text, done, start)), _Stretch(number, label, _runs(text, start, end))]
        done = end
    return [*found, _Stretch(0, "", _runs(text, done, len(text.pieces)))]


def _runs(text: Coloured, start: int, end: int) -> list[tuple[str, int]]:
    """The tokens ``start`` to ``end`` - 1; neighbours without swaps are one part."""
    swaps = [*text.swaps, *[0] * (len(text.pieces) - len(text.swaps))]
    shades = [
        (piece, min(SHADES, count)) for piece, count in zip(text.pieces[start:end], swaps[start:end], strict=True)
    ]
    found: list[tuple[str, int]] = []
    for shade, group in itertools.groupby(shades, key=lambda part: part[1]):
        parts = [piece for piece, _ in group]
        found += [(part, shade) for part in (parts if shade else ["".join(parts)])]
    return found
