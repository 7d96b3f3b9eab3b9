"""Makes Markdown tables."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def cell(value: object) -> str:
    """``value`` as the text of one cell, with Markdown's characters escaped."""
    flat = " ".join(str(value).split())
    return re.sub(r"([\\|<>\[\]`*_])", r"\\\1", flat)


def row(cells: Iterable[str]) -> str:
    """One line of a table. ``cells`` are Markdown already."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without a line break at its end. ``header`` and ``rows`` are Markdown already."""
    return "\n".join([row(header), row(["---"] * len(header)), *map(row, rows)])


def rows_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows by column name as a table; what a row lacks stays empty."""
    names = list(rows[0])
    return table(names, [[str(entry.get(name, "")) for name in names] for entry in rows])
