"""A hook of mkdocs: pages link to files beside docs/, as on a code host; they join the site under their names."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\]\(((?:\.\./)+)((?:spec|okr|examples)/[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the chapters of the specification, and every file of okr/, spec/ or examples/ that a page names."""
    root = Path(config.docs_dir).parent
    linked = {path.relative_to(root).as_posix() for path in (root / "spec" / "text").glob("*.md")}
    for page in files.documentation_pages():
        linked |= {target for _, target in _LINK.findall(page.content_string)}
    for name in sorted(linked):
        if (root / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, /, **_: object) -> str:
    """Make ``../spec/...`` and the like of a page in docs/ name the file's place in the site."""
    return _LINK.sub(lambda link: f"]({link[1][3:]}{link[2]}", markdown)
