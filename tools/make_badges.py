"""Draws the badges of the README: ``python tools/make_badges.py docs/figures``.

Each says what this repository says and tests: the licence and the Python versions of pyproject.toml, and the version of
the specification by which .ci/run judges the package.
"""

import sys
import tomllib
from html import escape
from pathlib import Path

from okr.version import SPEC_VERSION

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "Programming Language :: Python :: 3."


def badge(subject: str, said: str, colour: str) -> str:
    """An SVG file of a badge, as wide as its words."""
    left, right = (7 * len(words) + 14 for words in (subject, said))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{left + right}' height='20' role='img' "
        f"aria-label='{escape(subject)}: {escape(said)}'><rect width='{left}' height='20' fill='#555'/>"
        f"<rect x='{left}' width='{right}' height='20' fill='{colour}'/>"
        f"<g fill='#fff' font-family='Verdana,sans-serif' font-size='11' text-anchor='middle'>"
        f"<text x='{left / 2:g}' y='14'>{escape(subject)}</text>"
        f"<text x='{left + right / 2:g}' y='14'>{escape(said)}</text></g></svg>\n"
    )


def badges() -> dict[str, str]:
    """Every badge by its file's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    minors = sorted(int(name.removeprefix(PYTHON)) for name in project["classifiers"] if name.startswith(PYTHON))
    return {
        "badge-licence.svg": badge("licence", project["license"], "#2f6f9f"),
        "badge-python.svg": badge("Python", f"3.{minors[0]} to 3.{minors[-1]}", "#2f6f9f"),
        "badge-conformance.svg": badge("OKR specification", f"{SPEC_VERSION}, conforms", "#2f8f4e"),
    }


if __name__ == "__main__":
    for name, svg in badges().items():
        (Path(sys.argv[1]) / name).write_text(svg, encoding="utf-8")
