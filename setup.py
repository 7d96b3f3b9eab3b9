"""What pyproject.toml cannot say: README.md as an index page shows it, away from the files beside it, and the link
okr/spec in a source distribution.

``OKR_REPOSITORY_URL`` in the environment says where the repository is published; ``.github/workflows/release.yml`` sets
it. The links of the page and the project's URLs then lead there. Without it the page names files and links to none.
"""

import os
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:)([^)\s]+)\)")
_BADGE = re.compile(r"!\[[^]]*\]\(docs/figures/badge-[^)]*\) ?")
_NOTE = "\n\nThe files named here are in the source distribution, with the documentation and the tests.\n"


def index_page(readme: str, files: str = "") -> str:
    """``readme`` for an index page. Links and pictures lead to ``files``, an address with ``{kind}`` for raw or blob;
    without it a link becomes its words and the file's name."""

    def linked(link: re.Match[str]) -> str:
        picture, words, place = link.groups()
        if files:
            return f"{picture}[{words}]({files.format(kind='raw' if picture else 'blob')}/{place})"
        if picture:
            return f"(Picture, `{place}`: {words}.)"
        return f"`{place}`" if words == place else f"{words} (`{place}`)"

    text = readme if files else _BADGE.sub("", readme)
    return _LINK.sub(linked, text).rstrip() + ("\n" if files else _NOTE)


def project_urls(repository: str, files: str) -> dict[str, str]:
    """Where to read about the project, and where to say what is wrong with it."""
    pages = files.format(kind="blob")
    return {
        "Source": repository,
        "Documentation": f"{pages}/docs/index.md",
        "Changelog": f"{pages}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        "Security": f"{pages}/SECURITY.md",
    }


class Linked(sdist):
    """A source distribution laid out as the repository, so that the tests run in it: okr/spec is a link to spec."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, [name for name in files if Path(name).parts[:2] != ("okr", "spec")])
        Path(base_dir, "okr", "spec").symlink_to(Path("..", "spec"), target_is_directory=True)


if __name__ == "__main__":
    repository = os.environ.get("OKR_REPOSITORY_URL", "").rstrip("/")
    version = re.search(r'__version__ = "([^"]+)"', (HERE / "okr" / "version.py").read_text(encoding="utf-8"))[1]
    files = f"{repository}/{{kind}}/v{version}" if repository else ""
    setup(
        long_description=index_page((HERE / "README.md").read_text(encoding="utf-8"), files),
        long_description_content_type="text/markdown",
        cmdclass={"sdist": Linked},
        project_urls=project_urls(repository, files) if repository else {},
    )
