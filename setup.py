"""What pyproject.toml cannot say: README.md as an index page shows it, away from the files beside it."""

import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:)([^)\s]+)\)")
_NOTE = "\n\nThe files named here are in the source distribution, with the documentation and the tests.\n"


def index_page(readme: str) -> str:
    """``readme`` with each link to a file beside it, and each picture, as its words and the file's name."""

    def plain(link: re.Match[str]) -> str:
        picture, words, place = link.groups()
        if picture:
            return f"(Picture, `{place}`: {words}.)"
        return f"`{place}`" if words == place else f"{words} (`{place}`)"

    return _LINK.sub(plain, readme).rstrip() + _NOTE


if __name__ == "__main__":
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(long_description=index_page(text), long_description_content_type="text/markdown")
