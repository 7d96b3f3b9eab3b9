"""The documentation tells the truth: its tutorial and how-to pages run as written, its commands and options exist."""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

import okr
from okr.cli import execute

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "docs" / "tutorial.md",
    ROOT / "docs" / "cli.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
WRITTEN = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = re.compile(r"\b(okr [a-z]+|python -m okr\.run|python (?:bench|studies|tools)/\w+\.py)(?=\s|$)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page):
    """(language, text) of every fenced block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def shown(expected, printed):
    """Lines of ``expected`` that ``printed`` lacks; an ellipsis stands for anything."""
    patterns = {line: ".*".join(map(re.escape, line.split("…"))) for line in expected.splitlines()}
    return [line for line, pattern in patterns.items() if not re.search(f"^{pattern}\\s*$", printed, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OKR_THREADS", "1")  # workers of the test run share the cores
    names, printed = {"__name__": "__main__"}, ""
    for language, text in blocks(page):
        if language == "bash":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            printed = done.stdout
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, str(page), "exec"), names)
            printed = out.getvalue()
        elif language == "text":
            assert shown(text, printed) == [], printed


# Examples that stand on no page of PAGES, and what makes them short enough to be run here; the README's suites are run
# by evidence/test_both_models.py, porting.md's commands by spec/test_porting.py.
EXAMPLES = {
    ("README.md", "okr run deepseek-moe"): "--samples 2 --max-length 8 --decoys 999",
    ("docs/detection.md", "okr calibrate tiny-deepseek-moe --evidence text --tokens 400 --fpr 0.01"): (
        "--setting boundary:inf:1 --samples 2 --keys 2 --length 24 --passages 2"
    ),
}
RUN_ELSEWHERE = {
    "README.md": {"okr run", "okr run tiny --suite all --quick"},  # .ci/run has the first
    "docs/gpu.md": {"okr run deepseek-moe", "okr run deepseek-moe --model deepseek-moe-random"},  # tests/gpu, on a card
    "docs/porting.md": None,
    "docs/embedded-models.md": None,  # the training of the models: their texts are not here, and it takes an hour
}


@pytest.mark.parametrize(("page", "command"), EXAMPLES)
def test_an_example_of_the_command_line_runs(page, command, tmp_path, monkeypatch):
    assert command in (ROOT / page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if "deepseek-moe " in f"{command} ".replace("tiny-deepseek-moe", ""):
        loaded = okr.load("tiny")  # of the same architecture, and small
        for part in (loaded.model, loaded.tokenizer):
            part.save_pretrained(tmp_path / "deepseek-moe-16b-base")
        monkeypatch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(tmp_path / "deepseek-moe-16b-base"))
    assert execute([*command.split()[1:], *EXAMPLES[page, command].split()]) in (0, 1)
    assert any(path.is_dir() and path.name != "deepseek-moe-16b-base" for path in tmp_path.iterdir())


def test_every_example_is_run_somewhere():
    for page in WRITTEN:
        name = page.relative_to(ROOT).as_posix()
        if page in PAGES or name == "README.zh.md":
            continue
        elsewhere = RUN_ELSEWHERE.get(name, set())
        lines = {" ".join(words) for words in commands(page)}
        if elsewhere is not None:
            assert lines <= elsewhere | {line for where, line in EXAMPLES if where == name}
    chinese, english = ({" ".join(w) for w in commands(ROOT / n)} for n in ("README.zh.md", "README.md"))
    assert chinese <= english


def commands(page):
    """Every shell line of a page that starts one of the project's programs, continued lines joined."""
    for language, text in blocks(page):
        if language in ("", "bash", "console"):
            for line in re.sub(r"^#.*", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines():
                found = PROGRAM.search(line)
                if found:
                    yield [*found[0].replace("python -m okr.run", "okr run").split(), *_words(line[found.end() :])]


def _words(rest):
    return shlex.split(rest.partition("&&")[0], comments=True)


def unknown_options(words):
    """The options of a command line that its program does not have."""
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    if words[0] == "python":
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        return {option for option in options if f'"{option}"' not in source}
    command = get_command(__import__("okr.cli", fromlist=["app"]).app)
    found = command.commands[words[1]]
    return (
        options
        - {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
        - {"--help"}
    )


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_the_options_that_are_written(page):
    assert {" ".join(words): found for words in commands(page) if (found := unknown_options(words))} == {}


def test_what_is_checked_can_be_wrong():
    assert unknown_options(["okr", "run", "--sample", "4"]) == {"--sample"}
    assert shown("p = … (alpha 0.01)\ngone", "p = 0.5 (alpha 0.01)") == ["gone"]
    assert len([words for page in WRITTEN for words in commands(page)]) > 20
