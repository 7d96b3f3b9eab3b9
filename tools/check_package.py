"""``python tools/check_package.py SDIST WHEEL``: whether both hold what they must; exits 1 with what is wrong.

The wheel: the package okr, the specification in it, nothing else that could be imported, and at most 15 MB. The source
distribution: every file of the repository.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST_WHEEL = 15_000_000  # bytes


def tracked(*folders: str) -> set[str]:
    """Files of the repository, by their path; the link okr/spec is none."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines()) - {"okr/spec"}


def wrong_with_wheel(path: Path) -> list[str]:
    """What the wheel lacks, or has too much."""
    with zipfile.ZipFile(path) as wheel:
        held = set(wheel.namelist())
        metadata = next(name for name in held if name.endswith(".dist-info/METADATA"))
        page = wheel.read(metadata).decode("utf-8")
    wanted = tracked("okr") | {f"okr/{name}" for name in tracked("spec")}
    strangers = {name.partition("/")[0] for name in held} - {"okr", metadata.partition("/")[0]}
    links = [target for target in re.findall(r"\]\(([^)]*)\)", page) if not target.startswith("http")]
    size = path.stat().st_size
    return [
        *(f"the wheel lacks {name}" for name in sorted(wanted - held)),
        *(f"the wheel installs {name} beside okr" for name in sorted(strangers)),
        *(f"the wheel links to {name}" for name in links),
        *([f"the wheel has {size:,} bytes, more than {LARGEST_WHEEL:,}"] if size > LARGEST_WHEEL else []),
    ]


def wrong_with_sdist(path: Path) -> list[str]:
    """What the source distribution lacks."""
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    return [f"the source distribution lacks {name}" for name in sorted(tracked() - held)]


if __name__ == "__main__":
    problems = wrong_with_sdist(Path(sys.argv[1])) + wrong_with_wheel(Path(sys.argv[2]))
    sys.exit("\n".join(problems) or None)
