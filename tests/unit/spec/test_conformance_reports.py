"""Conformance reports: what is asked for, what is written, and that no change goes unnoticed."""

import json
import platform
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.cli import execute
from okr.spec import registry
from okr.spec.command import Request, run
from okr.spec.report import Report, schema
from okr.spec.report.publication import Signed, Statement, command, complete, conformance_report, without_folders
from okr.spec.runner import Result
from okr.spec.verdicts import UsageError

SIGNER = "Ada Example <ada@example.org>"
MADE = {"name": "mine", "version": "1.0", "url": "https://example.org/mine", "contact": "ada@example.org"}


def finished(**verdicts):
    """A run in which the routing clauses passed, but for ``verdicts`` by id (with _ for -)."""
    results = []
    for clause in registry.load().values():
        verdict = "pass" if clause.level == "routing" else "not applicable"
        verdict = verdicts.get(clause.id.replace("-", "_"), verdict)
        results.append(Result(clause, verdict, 0 if verdict == "not applicable" else 150))
    return Report("mine.py:Router", "ci", results)


def text_of(report):
    return conformance_report(report, Signed(schema.Implementation(**MADE), SIGNER), "okr conform mine.py:Router")


@cache
def fields_of_a_sound_one():
    return json.loads(text_of(finished()))


def resigned(fields):
    """The report of somebody who makes the digest anew after a change."""
    return json.dumps({**fields, "digest": schema.digest_of(fields)}).encode()


def problem(content):
    with pytest.raises(ValueError, match=r".") as caught:
        schema.read(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_report_says_what_came_out():
    report = finished(OKR_TIE_001="fail", OKR_ZONE_013="not applicable")
    report.results[next(i for i, r in enumerate(report.results) if r.failed)].known = "sorts\tbackwards"
    found = schema.read(text_of(report).encode())
    assert found.implementation.model_dump() == MADE
    assert found.current
    clauses = {clause.id: clause for clause in found.results.clauses}
    assert (clauses["OKR-TIE-001"].verdict, clauses["OKR-TIE-001"].known_failure) == ("fail", "sorts backwards")
    assert clauses["OKR-TIE-002"].model_dump() == {
        "id": "OKR-TIE-002",
        "verdict": "pass",
        "cases": 150,
        "known_failure": None,
    }
    routing = sum(clause.level == "routing" for clause in registry.load().values())
    assert str(found.tallies[0]) == f"core routing: {routing - 2} of {routing - 1}"
    assert not any(level.conforms for level in found.results.levels)


def test_a_report_names_no_machine_and_no_person_but_the_signer(tmp_path):
    text = text_of(finished())
    assert platform.node() == "" or platform.node() not in text
    assert str(tmp_path.parent.parent) not in text


def test_equal_runs_give_equal_results():
    assert json.loads(text_of(finished()))["results"] == json.loads(text_of(finished()))["results"]


def paths(value, place=()):
    """Every place in a JSON document that holds no other."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, inner in items for found in paths(inner, (*place, key))]
    return [place]


@given(st.data())
def test_any_changed_value_is_noticed(data):
    fields = json.loads(json.dumps(fields_of_a_sound_one()))
    place = data.draw(st.sampled_from(paths(fields)))
    holder = fields
    for key in place[:-1]:
        holder = holder[key]
    old = holder[place[-1]]
    new = data.draw(st.one_of(st.none(), st.booleans(), st.integers(), st.text()).filter(lambda value: value != old))
    holder[place[-1]] = new
    assert problem(json.dumps(fields).encode())


@given(st.sampled_from(range(len(registry.load()))), st.sampled_from(("pass", "fail", "unsupported", "not applicable")))
def test_a_changed_verdict_is_noticed_even_with_a_new_digest(index, verdict):
    fields = json.loads(json.dumps(fields_of_a_sound_one()))
    clause = fields["results"]["clauses"][index]
    if clause["verdict"] == verdict or clause["id"] == "OKR-ZONE-013":
        return
    clause["verdict"], clause["cases"] = verdict, 0 if verdict == "not applicable" else 1
    assert problem(resigned(fields))


def changed(**parts):
    return {**fields_of_a_sound_one(), **parts}


def without(index):
    results = fields_of_a_sound_one()["results"]
    return changed(results={**results, "clauses": results["clauses"][:index] + results["clauses"][index + 1 :]})


def twice(index):
    results = fields_of_a_sound_one()["results"]
    return changed(results={**results, "clauses": [*results["clauses"], results["clauses"][index]]})


def renamed(index, name):
    results = json.loads(json.dumps(fields_of_a_sound_one()["results"]))
    results["clauses"][index]["id"] = name
    return changed(results=results)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda: b"[1, 2]", "should be an object"),
        (lambda: b"{", "no JSON"),
        (lambda: b"[" * 100_000, "no JSON"),
        (lambda: b"9" * 10_000, "no JSON"),
        (lambda: b'{"a": NaN}', "no JSON"),
        (lambda: b'{"a": 1, "a": 2}', "a name stands twice"),
        (lambda: b'{"a": "\\ud800"}', "Invalid JSON"),
        (lambda: b"\xff\xfe", "no JSON"),
        (lambda: b" " * (2 << 20), "more than 1 MiB"),
        (lambda: resigned(changed(extra=1)), "extra"),
        (lambda: resigned(changed(schema_version="2.0")), "schema_version"),
        (lambda: resigned(changed(signed_off_by="nobody")), "signed_off_by"),
        (lambda: resigned(changed(implementation={**MADE, "url": "javascript:alert(1)"})), "must be an address"),
        (lambda: resigned(changed(implementation={**MADE, "name": "a\u202eb"})), "printable"),
        (lambda: resigned(without(3)), "is left out"),
        (lambda: resigned(twice(3)), "stands there twice"),
        (lambda: resigned(renamed(3, "OKR-KEY-999")), "has no clause OKR-KEY-999"),
        (lambda: resigned(renamed(3, "<script>")), "pattern"),
        (
            lambda: resigned(changed(specification={**fields_of_a_sound_one()["specification"], "version": "9.9"})),
            "no version 9.9",
        ),
    ],
)
def test_what_is_no_sound_report_is_refused_by_name(content, found):
    assert found in problem(content())


def test_a_report_of_another_version_is_checked_by_its_totals():
    spec = {**fields_of_a_sound_one()["specification"], "version": registry.EARLIER[0], "clauses": "0" * 64}
    assert not schema.read(resigned({**without(1), "specification": spec, "results": dropped()})).current
    lying = dropped()
    lying["levels"][0]["passed"] -= 1
    lying["levels"][0]["clauses"] -= 1
    assert "do not follow" in problem(resigned(changed(specification=spec, results=lying)))


def dropped():
    """The results without the first clause of core routing, as a version had them that did not have it."""
    results = json.loads(json.dumps(fields_of_a_sound_one()["results"]))
    del results["clauses"][0]
    results["levels"][0]["clauses"] -= 1
    results["levels"][0]["passed"] -= 1
    return results


ROUTER = """
from okr.spec.implementations.numpy_router import NumpyRouter

class Router(NumpyRouter):
    name, version, url = "theirs", "2.1", "https://example.org/theirs"
"""


def test_the_implementation_speaks_for_itself_and_options_speak_louder(tmp_path):
    script = tmp_path / "router.py"
    script.write_text(ROUTER)
    said = Statement(contact="ada@example.org", version="2.2", signed_off_by=SIGNER)
    assert complete(said, f"{script}:Router").implementation.model_dump() == {
        "name": "theirs",
        "version": "2.2",
        "url": "https://example.org/theirs",
        "contact": "ada@example.org",
    }
    with pytest.raises(UsageError, match="says the contact of the implementation: add --contact"):
        complete(Statement(signed_off_by=SIGNER), f"{script}:Router")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--signed-off-by"),
        ({"signed_off_by": "Ada"}, 'does not read "Name <mail>"'),
        ({**MADE, "signed_off_by": SIGNER, "url": "ftp://example.org"}, "--url 'ftp://example.org' cannot stand"),
        ({**MADE, "signed_off_by": SIGNER, "name": "x" * 300}, "--name"),
        ({"signed_off_by": SIGNER}, "add --name"),
    ],
)
def test_what_is_missing_is_asked_for_before_judging(options, message, tmp_path, capsys):
    outputs = {"report": tmp_path / "report.json"}
    assert run(Request("cmd:/no/such/program", (), "smoke", outputs, statement=Statement(**options))) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not outputs["report"].exists()


def test_what_goes_with_no_report_is_refused(tmp_path, capsys):
    assert run(Request("numpy", ("OKR-TIE-001",), "smoke", statement=Statement(url="https://example.org"))) == 2
    assert "--url is for --report" in capsys.readouterr().err
    partly = Request("numpy", ("OKR-TIE",), "smoke", {"report": tmp_path / "r"}, statement=Statement())
    assert run(partly) == 2
    assert "all clauses" in capsys.readouterr().err


def test_a_suite_that_failed_reports_nothing():
    with pytest.raises(UsageError, match="the suite failed"):
        text_of(finished(OKR_TIE_001="suite error"))


@pytest.mark.parametrize("clause", ["OKR_TIE_001", "OKR_BAKE_001"])
def test_one_clause_alone_is_not_excused(clause):
    """Who makes the levels anew as well cannot hide a failure as not applicable, nor claim one clause of a system."""
    verdict = "not applicable" if clause == "OKR_TIE_001" else "pass"
    with pytest.raises(UsageError, match="applies where other"):
        text_of(finished(**{clause: verdict}))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/ada b/router.py:Router", "router.py:Router"),
        ("../../ada/router.py:Router", "router.py:Router"),
        ("~ada/router.py:Router", "router.py:Router"),
        (r"C:\Users\ada\router.py:Router", "router.py:Router"),
        ("examples/router.py:Router", "examples/router.py:Router"),
        ("package.module:object", "package.module:object"),
        ("vectors:/tmp/answers.json", "vectors:answers.json"),
        ("cmd:/home/ada/bin/router --model=/data/m.bin -k 2", "cmd:router --model=m.bin -k 2"),
        ("cmd:'/home/ada b/router' 'two words'", "cmd:router 'two words'"),
        ("cmd:env PATH=/home/ada/bin:/usr/bin ./router", "cmd:env PATH=bin:bin ./router"),
        ("cmd:client http://example.org/a/b", "cmd:client http://example.org/a/b"),
    ],
)
def test_paths_of_one_machine_are_cut_to_the_name(given, shown):
    assert without_folders(given) == shown


def test_the_command_has_what_changes_the_results(tmp_path):
    told = command("numpy", "ci", timeout=20.0, known_failures=None)
    assert told == "okr conform numpy --profile ci"
    told = command("cmd:./router -x", "thorough", timeout=5.0, known_failures=tmp_path / "known.txt")
    assert told == "okr conform 'cmd:./router -x' --profile thorough --timeout 5 --known-failures known.txt"


def test_from_the_command_to_a_report_that_validates(tmp_path, capsys):
    path = tmp_path / "report.json"
    path.write_text("older")
    said = Statement(signed_off_by=SIGNER)
    assert run(Request("numpy", (), "smoke", {"report": path}, statement=said)) == 0
    assert "core routing: conforms; serving, traces, statistics, baking: not applicable" in capsys.readouterr().out
    found = schema.read(path.read_bytes())
    assert (found.profile, found.reproduce, found.signed_off_by) == (
        "smoke",
        "okr conform numpy --profile smoke",
        SIGNER,
    )
    assert [level.level for level in found.results.levels if level.conforms] == ["core routing"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_okr_validate_reads_a_report(tmp_path, capfd):
    path = tmp_path / "report.json"
    path.write_text(text_of(finished()))
    assert execute(["validate", str(path)]) == 0
    assert "mine 1.0: core routing: conforms" in capfd.readouterr().out
    assert execute(["validate", str(path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["conforms"]["core routing"] is True
    path.write_text(path.read_text().replace('"cases": 150', '"cases": 151'))
    assert execute(["validate", str(path)]) == 2
    said = capfd.readouterr().err
    assert "was changed after it was written" in said
    assert len(said.splitlines()) == 1
