"""The badges of the README say what the repository says."""

from pathlib import Path

from scripts import script

FIGURES = Path(__file__).parents[2] / "docs" / "figures"


def test_the_badges_are_those_of_today():
    """.ci/run fails where the package does not conform, so the last of them is true where that passed."""
    drawn = {path.name: path.read_text(encoding="utf-8") for path in FIGURES.glob("badge-*.svg")}
    assert drawn == script("tools/make_badges").badges()
