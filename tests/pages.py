"""The pages of the documentation, and what stands on them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
SERVED = ROOT / "docs" / "how-to" / "serve.md"
"""The page whose blocks serving/test_page.py runs, where vLLM is installed."""
HOW_TO = sorted(page for page in (ROOT / "docs" / "how-to").glob("*.md") if page != SERVED)
RUN = [*(ROOT / "docs" / name for name in ("tutorial.md", "cli.md", "suites.md")), *HOW_TO]
"""Pages whose every block is run."""
WRITTEN = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RECIPES = ("Start", "Bake a checkpoint", "Judge my own router")
"""Sections of README.md that are run where the tests are. .ci/run runs the lines that install."""
SERVER_RECIPE = "Prove an answer of a server"
"""The section of README.md whose blocks stand in SERVED too, and are run there."""
# Examples that stand on none of these, and what makes them short enough to be run; the README's suites are run by
# end_to_end/test_both_models.py, porting.md's commands by documents/test_porting.py.
EXAMPLES = {
    ("README.md", "okr run deepseek-moe"): "--samples 2 --max-length 8 --decoys 999",
    ("docs/detection.md", "okr calibrate tiny-deepseek-moe --trace-tokens 16 --tokens 400 --fpr 0.01"): (
        "--setting boundary:inf:1 --samples 2 --keys 2 --length 24 --passages 2"
    ),
}


def blocks(page: Path, section: str = "") -> list[tuple[str, str]]:
    """(language, text) of every fenced block, of one ``section`` alone if it is named."""
    text = page.read_text(encoding="utf-8")
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        assert text, f"{page.name} has no section {section!r}"
    return BLOCK.findall(text)


def shown(expected: str, printed: str) -> list[str]:
    """Lines of ``expected`` that ``printed`` lacks; an ellipsis stands for anything."""
    patterns = {line: ".*".join(map(re.escape, line.split("…"))) for line in expected.splitlines()}
    return [line for line, pattern in patterns.items() if not re.search(f"^{pattern}\\s*$", printed, re.MULTILINE)]
