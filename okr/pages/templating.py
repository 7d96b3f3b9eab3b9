"""Jinja templates of every room, with the same filters."""

import re
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup, escape

from okr.pages import numbers
from okr.pages.markdown import cell


def template(room: str, name: str) -> Template:
    """``templates/NAME`` of the package ``room``, which may include and import those of ``okr.pages``.

    In a template that ends in ``.html`` every text is escaped, other than Markup. A name that is not given is an error.
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
    """A cell of a table in HTML; the ends of an interval stay on one line."""
    return Markup(re.sub(r"(\(\S+ to \S+\))$", r'<span class="ends">\1</span>', str(escape(text))))  # noqa: S704


def svg(element: str) -> Markup:
    """An SVG element as it is. It must come from matplotlib, never from a user."""
    return Markup(element)  # noqa: S704


FILTERS: dict[str, Any] = {
    "rate": numbers.rate,
    "p": numbers.p,
    "setting": numbers.setting,
    "cell": cell,
    "ends": ends,
    "svg": svg,
}
