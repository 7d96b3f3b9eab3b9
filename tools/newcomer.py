"""A newcomer's walk: ``python tools/newcomer.py`` in an empty folder, where okr is installed and no checkout is used.

It runs what the pages tell a newcomer, as they tell it, and exits 1 where a block fails or prints something else: the
demo, a text that is written and proven, a checkpoint that is baked and proven, a router that is judged. .ci/run has it
walk with the wheel. Nothing but the pages is read from the repository.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from pages import blocks, shown  # noqa: E402  # how tests read pages

SHORT = {"OKR_QUALITY_PASSAGES": "4", "OKR_THREADS": "1", "HF_HUB_OFFLINE": "1"}
STEPS = [  # a page, a section of it, and how many of its blocks
    ("docs/tutorial.md", "3. Make a key", 1),
    ("docs/tutorial.md", "7. The whole experiment", 1),
    ("docs/cli.md", "Generate, and prove", 1),
    ("README.md", "Bake a checkpoint", 2),
    ("docs/how-to/bake.md", "Prove that text came from it", 3),
    ("README.md", "Judge my own router", 3),
]


def walk() -> Iterator[str]:
    """What is wrong with each block that does not do what its page says."""
    printed = ""
    for page, section, count in STEPS:
        for language, text in blocks(ROOT / page, section)[:count]:
            if language == "text":
                yield from (f"{page}: {line!r} was not printed, but:\n{printed}" for line in shown(text, printed))
                continue
            text = text.replace(" key.json", " owner.json")  # the key of the checkpoint that the README baked
            if language == "python":
                Path("my_router.py").write_text(text, encoding="utf-8")
                command = [sys.executable, "my_router.py"]
            else:
                command = ["bash", "-euo", "pipefail", "-c", text]
            begun = time.monotonic()
            done = subprocess.run(command, env=os.environ | SHORT, capture_output=True, text=True, check=False)
            printed = done.stdout
            print(f"{page}, {section}: {time.monotonic() - begun:.1f} s", flush=True)
            if done.returncode:
                yield f"{page}: exit code {done.returncode}:\n{text}\n{done.stdout}\n{done.stderr}"


if __name__ == "__main__":
    where = subprocess.run(
        [sys.executable, "-c", "import okr; print(okr.__file__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if ROOT in Path(where).parents:
        sys.exit(f"okr is the repository's, in {where}")
    sys.exit("\n".join(walk()) or None)
