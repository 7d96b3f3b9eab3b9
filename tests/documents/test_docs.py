"""The documentation tells the truth: its examples are run somewhere, its commands and options exist."""

import re
import shlex

import pytest
from pages import EXAMPLES, RECIPES, ROOT, RUN, SERVED, SERVER_RECIPE, WRITTEN, blocks
from typer.main import get_command

PROGRAM = re.compile(r"\b(okr [a-z]+|python -m okr\.run|python (?:bench|studies|tools)/\w+\.py)(?=\s|$)")
RUN_ELSEWHERE = {
    "README.md": {"okr run tiny --setting loud --suite all --quick"},  # end_to_end/test_both_models.py
    "docs/gpu.md": {"okr run deepseek-moe", "okr run deepseek-moe --model deepseek-moe-random"},  # tests/gpu, on a card
    "docs/porting.md": None,
    "docs/reports.md": None,  # for the router of whoever reads it
    "docs/embedded-models.md": None,  # the training of the models: their texts are not here, and it takes an hour
}


def test_every_example_is_run_somewhere():
    for page in WRITTEN:
        name = page.relative_to(ROOT).as_posix()
        if page in RUN or page == SERVED or name == "README.zh.md":
            continue
        elsewhere = RUN_ELSEWHERE.get(name, set())
        sections = (*RECIPES, SERVER_RECIPE) if name == "README.md" else ()
        recipes = {" ".join(words) for section in sections for words in commands(page, section)}
        lines = {" ".join(words) for words in commands(page)} - recipes
        if elsewhere is not None:
            assert lines <= elsewhere | {line for where, line in EXAMPLES if where == name}


def commands(page, section=""):
    """Every shell line of a page that starts one of the project's programs, continued lines joined."""
    for language, text in blocks(page, section):
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
    assert len([words for page in WRITTEN for words in commands(page)]) > 20
