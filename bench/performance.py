"""Everything that docs/performance.md says, measured by one command and written into it.

    python bench/performance.py                 # half an hour on two cores, 4 GB
    python bench/performance.py --rounds 3      # a quick look; writes as well

Runs bench/routers.py, bench/detection.py and bench/memory.py with the slice of the 16B shape, keeps their figures in
docs/data/performance.json and replaces the tables between the page's markers. What the page says in words is for
people to write.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import detection
import memory
import routers

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, DATA = DOCS / "performance.md", DOCS / "data" / "performance.json"


def tables(figures: dict[str, Any]) -> dict[str, str]:
    """What stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    found = {name: routers.table(figures[name]) for name in ("routers", "experts", "models")}
    found |= detection.tables(figures) | {"memory": memory.table(figures)}
    on = ", ".join(f"{name} {what}" for name, what in figures["machine"].items() if name not in ("processor", "date"))
    found["machine"] = f"Measured on {figures['machine']['date']}: {figures['machine']['processor']}, {on}."
    found["trace"] = f"Traces take {figures['trace']:g} bytes for each expert choice."
    return found


def page(text: str, found: dict[str, str]) -> str:
    """``text`` with every table in its place. Raises ValueError where a place is missing."""
    for name, table in found.items():
        text, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\g<1>{table}\n\g<2>", text, flags=re.S)
        if count != 1:
            raise ValueError(f"{PAGE} has {count} places for the table {name}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    figures = detection.measured(max(3, arguments.rounds // 2), with_slice=True) | memory.measured(with_slice=True)
    figures |= routers.measured(arguments.rounds, with_slice=True)
    DATA.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), tables(figures)), encoding="utf-8")


if __name__ == "__main__":
    main()
