"""The README tells the truth: its commands exist, its links lead somewhere, its figures are those that were stored.

Its blocks are run by end_to_end/test_pages_as_written.py and by .ci/run.
"""

import re
from collections import Counter

import pytest
from pages import BLOCK, READMES, ROOT, SERVED, SERVER_RECIPE, blocks
from scripts import script

NAMES = tuple(path.name for path in READMES)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?:e-?\d+)?")
PICTURE = ROOT / "docs" / "figures" / "result.svg"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*NAMES, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", read(name)):
        assert ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    from okr.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"\bokr ([a-z-]+) ", "".join(text for _, text in blocks(ROOT / name))))
    assert named
    assert named <= known


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name: str) -> None:
    assert len(read(name).splitlines()) <= 120


def prose(name: str) -> str:
    return BLOCK.sub("", read(name))


def links(name: str) -> Counter[str]:
    """Where the links and pictures of a README lead; the link to the other README left out."""
    return Counter(target for target in re.findall(r"\]\(([^)]+)\)", prose(name)) if target not in NAMES)


def numbers(name: str) -> Counter[str]:
    """The numbers of the words, without those of links."""
    return Counter(NUMBER.findall(re.sub(r"\]\([^)]+\)", "]", prose(name))))


def test_both_languages_have_the_same_code() -> None:
    assert blocks(READMES[0]) == blocks(READMES[1])


@pytest.mark.parametrize("facts", [links, numbers])
def test_both_languages_have_the_same_links_and_figures(facts) -> None:
    english, chinese = map(facts, NAMES)
    assert sum(english.values()) > 20
    assert english == chinese


def test_the_server_recipe_is_run_with_its_page() -> None:
    """serving/test_page.py runs the page where vLLM is installed."""
    recipe = blocks(ROOT / "README.md", SERVER_RECIPE)
    whole = blocks(SERVED)
    assert len(recipe) == 3
    assert [block for block in whole if block in recipe] == recipe


def test_the_first_page_of_the_site_has_the_code_of_the_readme() -> None:
    shown = blocks(ROOT / "docs" / "index.md")
    assert [language for language, _ in shown] == ["", "python", "text"]
    assert {*shown[1:]} <= {*blocks(READMES[0])}


def rows(name: str) -> list[list[tuple[float, ...]]]:
    """The numbers of each cell but the first, in the rows of the table of a README."""
    picture = script("studies/result_picture")
    table = [line for line in read(name).splitlines() if line.startswith("| ")][2:]
    return [[picture.numbers(cell) for cell in line.strip("|").split("|")[1:]] for line in table]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_figures_say(name: str) -> None:
    picture = script("studies/result_picture")
    figures, baked = picture.load(), picture.row("baked", model=picture.MODEL, strength=0.1)

    def found(method: str, tokens: int) -> tuple[float, ...]:
        (point,) = [point[1:] for point in figures.found[method] if point[0] == tokens]
        return tuple(round(share, 2) for share in point)

    def cost(method: str) -> tuple[float, ...]:
        return tuple(round(part, 4) for part in figures.cost[method])

    def cell(column: str, digits: int) -> tuple[float, ...]:
        return tuple(round(part, digits) for part in picture.numbers(baked[column]))

    assert rows(name) == [
        [found("quiet", 16), cost("quiet")],
        [cell("proven after 16 (95%)", 2), cell("cost baked", 4)],
        [found("okr", 120), cost("okr")],
        [found("kgw", 120), cost("kgw")],
        [found("synthid", 120), ()],
    ]
    assert picture.TEXTS == 200
    assert baked["texts"] == 200


def test_the_picture_shows_the_stored_figures() -> None:
    """Its labels, and as many marks; where they stand depends on the version of matplotlib."""

    def parts(svg: str) -> tuple[list[str], int]:
        return re.findall(r"<text[^>]*>([^<]*)", svg), svg.count("<use ")

    words, marks = parts(PICTURE.read_text(encoding="utf-8"))
    assert (words, marks) == parts(script("studies/result_picture").picture())
    assert marks > 20
