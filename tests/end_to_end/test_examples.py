"""The files in examples/ run as they are, and print what they promise. tests/serving runs the one that needs vLLM."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from pages import ROOT
from small_runs import launched

EXAMPLES = ROOT / "examples"
NEEDS = {"lora.py": "peft"}


def run(python: Path, folder: Path, *words: str) -> str:
    """What a program prints."""
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("name", ["pipeline.py", "lora.py"])
def test_an_example_proves_its_key(name: str, warm: Path, tmp_path: Path) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{name} needs {NEEDS[name]}")
    printed = run(warm / "python", tmp_path, str(EXAMPLES / name))
    assert re.search(r"^watermarked under key [0-9a-f]{16}: p = ", printed, re.MULTILINE), printed
    if name == "lora.py":
        first, last = map(float, re.findall(r"(\d\.\d\d) in the", printed))
        assert last < first


def test_the_passage_under_the_key_is_found(warm: Path, tmp_path: Path) -> None:
    printed = run(warm / "python", tmp_path, str(EXAMPLES / "passages.py"))
    first, last = map(int, re.search(r"tokens (\d+) to (\d+) were written under the key", printed).groups())
    (named,) = re.findall(r" acted in .* tokens .*: (.*)", printed)
    spans = [tuple(map(int, span.split(" to "))) for span in named.split(", ")]
    assert any(start <= last and first <= end for start, end in spans)  # a false one has a probability of 0.01


def test_two_processes_share_texts_under_one_key(warm: Path, tmp_path: Path, key_file: Path) -> None:
    done = launched(warm / "python", 2, str(EXAMPLES / "two_processes.py"), str(key_file))
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^process (\d)", done.stdout, re.MULTILINE) == ["0", "0", "1", "1"]
    assert "4 of 4 found watermarked" in done.stdout


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, warm: Path, tmp_path: Path) -> None:
    """Its cells of code in order, in one namespace: what a kernel does, without one."""
    program = tmp_path / "cells.py"
    program.write_text("\n".join("".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"))
    printed = run(warm / "python", tmp_path, str(program))
    with_key, without = (float(p) for p in re.findall(r"(?:largest|smallest) p with.*: (\S+)", printed))
    assert with_key < 1e-6 < without == 1.0


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(notebook) if "outputs" in cell
    )
    assert len({cell["id"] for cell in cells(notebook)}) == len(cells(notebook))


def test_examples_are_short_and_say_how_to_run_them() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    listed = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for path in [*scripts, *EXAMPLES.glob("*.ipynb")]:
        assert f"../examples/{path.name}" in listed
    for path in scripts:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 60, path.name
        assert any(line.startswith("    ") and path.stem in line for line in lines[: lines.index('"""')]), path.name
