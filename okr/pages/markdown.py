"""Markdown tables."""

from collections.abc import Sequence
from typing import Any


def rows_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; what a row lacks stays empty."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(entry.get(name, "")) for name in names] for entry in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
