"""The mutation driver changes what it says it changes."""

import ast
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from okr.spec.adequacy import mutation, reach, report
from okr.spec.adequacy.__main__ import DOCUMENTS, EXPLAINED, MEASURED, by_module
from okr.spec.adequacy.mutants import functions, mutants
from okr.spec.adequacy.targets import PARTS, Target
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
    for place, content in report.documents(measured, explained).items():
        assert (DOCUMENTS / place).read_text("utf-8") == content
    for part, everyone in (("zoo", members()), ("systems", systems())):
        assert [entry["name"] for entry in measured[part]] == [member.name for member in everyone]
        assert all(entry["killers"] and not entry["surprises"] for entry in measured[part])
    assert not any(entry["alarms"] for entry in [*measured["alarms"], *measured.get("ports", [])])


def test_owners_that_are_functions_are_told_from_the_others():
    source = "A = 1\nclass B:\n    C = 2\n    def d(self):\n        def e():\n            return 3\n        return e"
    assert functions(source) == {"B.d", "B.d.e"}
    assert {mutant.owner for mutant in mutants(source)} == {"A", "B", "B.d.e"}


LINES = """
def f(
    a=1,
):
    if a == 2:
        return 3
    total = g(
        4,
        a + 5,
    )
    return [x for x in total if x > 6]
"""


def test_a_mutant_runs_with_its_statement_or_the_head_of_it():
    found = {mutant.name: mutant.lines for mutant in mutants(LINES)}
    assert found["f: 1 -> 2"] == range(2, 4)
    assert found["f: a == 2 -> a != 2"] == found["f: 2 -> 3"] == range(5, 6)
    assert found["f: 3 -> 4"] == range(6, 7)
    assert found["f: 4 -> 5"] == found["f: a + 5 -> a - 5"] == range(7, 11)
    assert found["f: x > 6 -> x >= 6"] == range(11, 12)


class Asks:
    """A question that takes one of two ways through a function."""

    def __init__(self, name, call):
        self.name, self.call = name, call

    def ask(self, subject, cases):
        self.call()
        return "pass", ""


def test_mutants_are_asked_what_runs_their_line(monkeypatch, tmp_path):
    """The cheapest first; a second run takes what the first one kept."""
    from okr.traces import passes

    monkeypatch.setattr(reach.models, "forget", lambda: None)
    module = "okr.traces.passes"
    fold, unfold = Asks("fold", lambda: passes.folded([(1, 1), (1, 2)])), Asks("unfold", lambda: passes.unfolded)
    everyone = [fold, unfold]
    found = reach.measured(everyone, [module], None, {}, tmp_path / "kept.jsonl")
    fold.call = unfold.call = None
    assert reach.measured(everyone, [module], None, {}, tmp_path / "kept.jsonl") == found
    source = Path(passes.__file__).read_text("utf-8")
    for mutant in mutants(source):
        names = [question.name for question in reach.asked(found, Target(module, ()), mutant, everyone)]
        if mutant.owner == "folded":
            assert names == ["fold"]
        elif mutant.owner in ("unfolded", "check_passes"):
            assert names == []
        else:
            assert sorted(names) == ["fold", "unfold"]


def test_mutants_of_machine_code_are_asked_everything():
    """What numba compiles cannot be watched, although the functions beside it were."""
    from okr.routing import compiled

    module, one = "okr.routing.compiled", Asks("one", None)
    found = {"one": reach.Reached(0.0, {module: frozenset([50])})}
    owners = {}
    for mutant in mutants(Path(compiled.__file__).read_text("utf-8")):
        owners[mutant.owner] = reach.asked(found, Target(module, ()), mutant, [one])
    assert owners["_select"] == owners["_largest"] == [one]
    assert owners["in_memory"] == []


def test_a_question_that_fails_without_any_mutant_ends_the_run(monkeypatch):
    monkeypatch.setattr(reach.models, "forget", lambda: None)
    question = Asks("one", lambda: None)
    question.ask = lambda subject, cases: ("fail", "")
    with pytest.raises(RuntimeError, match="one does not hold"):
        reach.measured([question], ["okr.traces.passes"], None, {})


def test_the_last_word_about_a_mutant_holds(tmp_path):
    """Also where a run was ended in the middle of a line."""
    fates = mutation.Fates(tmp_path / "fates.jsonl")
    for fate in ("survived", "killed"):
        fates.keep({"module": "m", "mutant": "a", "fate": fate})
    with (tmp_path / "fates.jsonl").open("a") as file:
        file.write('{"module": "m", "mutant": "b", "fa')
    assert mutation.Fates(tmp_path / "fates.jsonl").known == {
        ("m", "a"): {"module": "m", "mutant": "a", "fate": "killed"}
    }


def test_what_is_measured_anew_takes_the_place_of_its_module_alone():
    def found(*modules):
        return [{"module": module, "mutant": str(number)} for number, module in enumerate(modules)]

    told = by_module(found("a", "b", "c", "gone"), [{"module": "b", "mutant": "new"}], ["a", "b", "c"])
    assert told == [{"module": "a", "mutant": "0"}, {"module": "b", "mutant": "new"}, {"module": "c", "mutant": "2"}]


def test_a_survivor_without_an_explanation_is_open_and_counts():
    entry = {"module": "okr.traces.passes", "line": 1, "mutant": "f: 1 -> 2", "fate": "survived", "what": ""}
    killed = {**entry, "mutant": "f: 1 -> 0", "fate": "killed"}
    measured = {"traces": [entry, killed]}
    pages = report.documents(measured, {})
    assert report.OPEN in pages["data/adequacy-survivors.csv"]
    assert "| all | 2 | 1 | 0 | 0 | 1 | 0 | 50.0% |" in pages["adequacy.md"]
    assert "1 survivors are open" in pages["adequacy.md"]
    same = report.documents(measured, {report.key(entry): "equivalent: it is the same"})
    assert "| all | 2 | 1 | 0 | 0 | 1 | 1 | 100.0% |" in same["adequacy.md"]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="mutants are named by ast.unparse, and were on Python 3.11")
@pytest.mark.parametrize(
    ("part", "target"),
    [(part, target) for part in PARTS for target in PARTS[part]],
    ids=lambda given: getattr(given, "module", given),
)
def test_published_mutants_are_those_of_the_sources(part, target):
    """Whoever changes a module measures it again: ``python -m okr.spec.adequacy`` with the part's name."""
    measured = json.loads(MEASURED.read_text("utf-8"))
    published = [entry for entry in measured.get(part, ()) if entry["module"] == target.module]
    if not published:
        name = target.module.rpartition(".")[2]
        assert re.search(rf"Not measured yet: .*\b{name}\b", (DOCUMENTS / "adequacy.md").read_text("utf-8"))
        return
    source = Path(importlib.import_module(target.module).__file__).read_text("utf-8")
    assert [entry["mutant"] for entry in published] == [mutant.name for mutant in mutants(source)]
