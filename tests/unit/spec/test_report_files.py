"""okr conform: the reports that it writes, and where."""

import json
from pathlib import Path
from xml.etree import ElementTree

from okr.spec.command import Request, run

IMPOSTORS = f"{Path(__file__).parent / 'impostors.py'}:"


def test_the_other_reports(tmp_path):
    outputs = {kind: tmp_path / kind for kind in ("junit", "html", "badge")}
    assert run(Request("okr.spec.zoo.ties:SignedZeros", ("OKR-TIE",), "smoke", outputs)) == 1
    suite = ElementTree.parse(outputs["junit"]).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("7", "1")
    assert suite.find(".//failure").get("message").startswith("token 0 is wrong")
    page = outputs["html"].read_text("utf-8")
    assert "6 of 7" in page
    assert page.index("#OKR-TIE-004") < page.index("OKR-TIE-001")  # what failed comes first
    assert ElementTree.parse(outputs["badge"]).getroot().get("aria-label") == "OKR conformance 6/7"


def test_a_report_on_standard_output_is_alone_there(capsys):
    wrong = IMPOSTORS + "WrongShape"
    assert run(Request(wrong, ("OKR-FAIL-001",), "smoke", {"json": Path("-")})) == 1
    printed = capsys.readouterr()
    assert [c["verdict"] for c in json.loads(printed.out)["clauses"]] == ["shape"]
    assert "OKR-FAIL-001" in printed.err
    assert run(Request(wrong, ("OKR-FAIL-001",), "smoke", {"json": Path("-"), "html": Path("-")})) == 2
    assert "only one" in capsys.readouterr().err


def test_a_place_where_no_report_can_be_written_is_refused_before_judging(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "no" / "report.json"):
        assert run(Request("okr.spec.zoo.ties:SignedZeros", ("OKR-TIE",), "smoke", {"json": path})) == 2
        assert capsys.readouterr().out == ""


def test_a_report_that_cannot_be_written_leaves_the_verdict(capsys):
    assert run(Request("numpy", ("OKR-TIE-001",), "smoke", {"json": Path("/dev/full")})) == 2
    assert "numpy: conforms" in capsys.readouterr().out
