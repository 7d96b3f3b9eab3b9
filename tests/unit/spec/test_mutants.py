"""The mutation driver changes what it says it changes."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

from okr.spec.adequacy import mutation, report
from okr.spec.adequacy.__main__ import DOCUMENT, EXPLAINED, MEASURED
from okr.spec.adequacy.mutants import functions, mutants
from okr.spec.zoo import members
from okr.spec.zoo.systems import systems

SOURCE = '''
"""Docstring 1."""
LIMIT = 16
__all__ = ["f"]

def f(a: int, b: int = 2) -> bool:
    """Docstring 2."""
    if not a:
        raise ValueError(f"message {b}")
    return a < b and a + 1 > 0
'''


def test_mutants_differ_from_the_source_and_compile():
    original = ast.unparse(ast.parse(SOURCE))
    found = mutants(SOURCE)
    texts = [ast.unparse(mutant.tree) for mutant in found]
    assert original not in texts
    assert len(set(texts)) == len(texts)
    assert len({mutant.name for mutant in found}) == len(found)
    for mutant in found:
        compile(mutant.tree, "mutant", "exec")


def test_every_kind_of_change_is_made_and_words_are_left_alone():
    names = [mutant.name for mutant in mutants(SOURCE)]
    for part in (
        "LIMIT: 16 -> 17",
        "f: a < b -> a <= b",
        "f: a < b -> a > b",
        "a + 1 -> a - 1",
        "not a -> a",
        "-> pass",
        " and ",
        " 2 -> 3",
    ):
        assert any(part in name for name in names), part
    assert not any("Docstring" in name and "Docstringx" in name for name in names)
    assert not any("message" in name.split("->")[1] for name in names)
    assert not any("__all__" in name for name in names)


def test_the_published_figures_are_those_measured():
    measured, explained = (json.loads(path.read_text("utf-8")) for path in (MEASURED, EXPLAINED))
    page = report.render(measured, explained)
    assert DOCUMENT.read_text("utf-8") == page
    assert "NOT EXPLAINED" not in page
    for part, everyone in (("zoo", members()), ("systems", systems())):
        assert [entry["name"] for entry in measured[part]] == [member.name for member in everyone]
        assert all(entry["killers"] and not entry["surprises"] for entry in measured[part])
    assert not any(entry["alarms"] for entry in [*measured["alarms"], *measured.get("ports", [])])


def test_owners_that_are_functions_are_told_from_the_others():
    source = "A = 1\nclass B:\n    C = 2\n    def d(self):\n        def e():\n            return 3\n        return e"
    assert functions(source) == {"B.d", "B.d.e"}
    assert {mutant.owner for mutant in mutants(source)} == {"A", "B", "B.d.e"}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="mutants are named by ast.unparse, and were on Python 3.11")
@pytest.mark.parametrize("target", [*mutation.ROUTING, *mutation.ATTACH], ids=lambda target: target.module)
def test_published_mutants_are_those_of_the_sources(target):
    """Whoever changes a module measures it again: ``python -m okr.spec.adequacy mutation``, or ``attach``."""
    part = "mutation" if target in mutation.ROUTING else "attach"
    published = [entry for entry in json.loads(MEASURED.read_text("utf-8"))[part] if entry["module"] == target.module]
    source = Path(importlib.import_module(target.module).__file__).read_text("utf-8")
    everyone = [mutant.name for mutant in mutants(source)]
    kept = -(-len(everyone) // target.one_in)
    assert len(published) == kept
    assert {entry["mutant"] for entry in published} <= set(everyone)
