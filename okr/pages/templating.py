"""Loads the Jinja templates of every room, with the same filters."""

import re
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup, escape

from okr.intervals import Interval
from okr.pages import numbers
from okr.pages.markdown import cell


@cache
def template(room: str, name: str) -> Template:
    """The template ``templates/NAME`` of the package ``room``. It may include and import the templates of
    ``okr.pages``.

    A template that ends in ``.html`` escapes every text that is not Markup. A variable that is not given is an error.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader("okr.pages")]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(name)


def ends(text: str) -> Markup:
    """The text of a table cell in HTML. The ends of an interval stay on one line."""
    return Markup(re.sub(r"(\(\S+ to \S+\))$", r'<span class="ends">\1</span>', str(escape(text))))  # noqa: S704


def svg(element: str) -> Markup:
    """An SVG element without escaping. It must come from matplotlib, never from a user."""
    return Markup(element)  # noqa: S704


def interval(value: Interval | None, digits: int) -> str:
    """A figure with the ends of its interval, or a dash for None."""
    return numbers.NONE if value is None else value.text(digits)


def percent(value: Interval) -> str:
    """A share with the ends of its interval, in percent."""
    return f"{100 * value.value:.0f}% ({100 * value.low:.0f}% to {100 * value.high:.0f}%)"


FILTERS: dict[str, Any] = {
    "rate": numbers.rate,
    "p": numbers.p,
    "setting": numbers.setting,
    "cell": cell,
    "ends": ends,
    "svg": svg,
    "interval": interval,
    "percent": percent,
}
