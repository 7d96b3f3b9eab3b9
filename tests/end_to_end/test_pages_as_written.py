"""The README, the tutorial, the how-to pages and the page of the command line run as they are written."""

import contextlib
import io
import os
import subprocess
from pathlib import Path

import pytest
from pages import EXAMPLES, RECIPES, ROOT, RUN, blocks, shown
from warm_python import path_with

import okr
from okr.cli import execute


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one thread, as workers of the test run share the cores, whose cost few passages show."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OKR_THREADS", "1")
    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "4")


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
@pytest.mark.usefixtures("short")
def test_a_page_runs_as_written(page: Path, warm: Path) -> None:
    names, printed = {"__name__": "__main__"}, ""
    for language, text in blocks(page):
        if language == "bash":
            environment = os.environ | {"PATH": path_with(warm)}
            command = ["bash", "-euo", "pipefail", "-c", text]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            printed = done.stdout
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, str(page), "exec"), names)
            printed = out.getvalue()
        elif language == "text":
            assert shown(text, printed) == [], printed


@pytest.mark.parametrize(("page", "command"), EXAMPLES)
@pytest.mark.usefixtures("short")
def test_an_example_of_the_command_line_runs(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command in (ROOT / page).read_text(encoding="utf-8")
    if "deepseek-moe " in f"{command} ".replace("tiny-deepseek-moe", ""):
        loaded = okr.load("tiny")  # of the same architecture, and small
        for part in (loaded.model, loaded.tokenizer):
            part.save_pretrained(tmp_path / "deepseek-moe-16b-base")
        monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(tmp_path / "deepseek-moe-16b-base"))
    assert execute([*command.split()[1:], *EXAMPLES[page, command].split()]) in (0, 1)
    assert any(path.is_dir() and path.name != "deepseek-moe-16b-base" for path in tmp_path.iterdir())


def python_of(page: Path, python: Path, folder: Path) -> str:
    """What the Python of a page prints: all its blocks as one program, in a process of its own."""
    code = "\n".join(text for language, text in blocks(page) if language == "python")
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("section", RECIPES)
def test_a_recipe_of_the_readme_runs_as_written(section: str, warm: Path, tmp_path: Path) -> None:
    """The Chinese README has the same blocks (documents/test_readme.py). Python is a file of its own, as a user's."""
    environment, printed = os.environ | {"PATH": path_with(warm), "OKR_THREADS": "1"}, ""
    for language, text in blocks(ROOT / "README.md", section):
        if language == "python":
            (tmp_path / "my_router.py").write_text(text)
            command = [warm / "python", "-c", text]
        elif language == "bash" and not text.startswith("pip"):
            command = ["bash", "-euo", "pipefail", "-c", text]
        elif language == "text":
            assert shown(text, printed) == [], printed
            continue
        else:
            continue
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        printed = done.stdout
    assert printed


@pytest.mark.parametrize("name", ["traces", "discovery"])
def test_python_of_the_docs_runs_as_written(name: str, warm: Path, tmp_path: Path) -> None:
    python_of(ROOT / "docs" / f"{name}.md", warm / "python", tmp_path)


def test_what_is_shown_can_be_wrong() -> None:
    assert shown("p = … (alpha 0.01)\ngone", "p = 0.5 (alpha 0.01)") == ["gone"]


def test_the_command_is_where_python_is_and_starts() -> None:
    """Outside an activated environment too: the installed program, in a process that has imported nothing."""
    done = subprocess.run(["okr", "--version"], env={"PATH": path_with()}, capture_output=True, text=True, check=True)
    assert done.stdout == f"okr {okr.__version__}\n"
