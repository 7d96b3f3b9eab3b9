"""okr conform: exit codes, verdicts, reports, and the same verdict through every adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from okr.spec import vectors
from okr.spec.adapters import load
from okr.spec.adapters.worker import reply
from okr.spec.cases import Call, show
from okr.spec.command import Request, run
from okr.spec.implementations import stdlib_vectors
from okr.spec.report.reproduction import reproduction
from okr.spec.runner import chosen, run_vectors
from okr.spec.subject import FUNCTIONS, Subject
from okr.spec.verdicts import Unsupported

HERE = Path(__file__).parent
IMPOSTORS = f"{HERE / 'impostors.py'}:"
WORKER = f"cmd:{sys.executable} -m okr.spec.adapters.worker "


def conform(implementation, *clauses, tmp_path=None, **options):
    """Exit code and JSON report."""
    path = tmp_path / "report.json" if tmp_path else None
    outputs = {"json": path} if path else None
    code = run(Request(implementation, clauses, options.pop("profile", "smoke"), outputs, **options))
    return code, json.loads(path.read_text("utf-8")) if path and path.exists() else None


def test_a_correct_router_conforms(tmp_path):
    code, report = conform("numpy", "OKR-KEY-00", "OKR-ZONE", "OKR-TIE", tmp_path=tmp_path)
    assert code == 0
    assert report["conforms"]
    assert report["passed"] == report["applicable"] == sum(c["verdict"] == "pass" for c in report["clauses"])


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("Hangs", "timeout"),
        ("Crashes", "crash"),
        ("WrongShape", "shape"),
        ("WrongDtype", "dtype"),
        ("Mutates", "mutated"),
        ("Quits", "crash"),
        ("Speechless", "crash"),
        ("Lazy", "crash"),
    ],
)
def test_each_misbehaviour_has_its_own_verdict(name, verdict, tmp_path):
    code, report = conform(IMPOSTORS + name, "OKR-FAIL-001", tmp_path=tmp_path, timeout=0.3)
    assert code == 1
    assert [c["verdict"] for c in report["clauses"]] == [verdict]


@pytest.mark.parametrize("name", ["HangsAtOnce", "CrashesAtOnce", "Nothing", "Unmakable", "Nameless"])
def test_an_adapter_that_fails_the_first_call_is_broken(name, capsys):
    assert conform(IMPOSTORS + name, "OKR-SEL-002", timeout=0.3)[0] == 3
    assert "adapter is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "no.such.module:router",
        "okr.spec.implementations.numpy_router:absent",
        "cmd:/no/such/program",
        "vectors:absent.json",
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_broken(name, capsys):
    assert conform(name, "OKR-SEL-002")[0] == 3
    assert "adapter is broken" in capsys.readouterr().err


def test_a_program_that_dies_is_broken(capsys):
    assert conform(f"cmd:{sys.executable} -c 'raise SystemExit(7)'", "OKR-KEY-002")[0] == 3
    assert "exit status 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("implementation", "clauses", "options"),
    [
        ("numpy", ["OKR-NO"], {}),
        ("numpy", [""], {}),
        ("cmd:'", [], {}),
        ("cmd: ", [], {}),
        ("nonsense", [], {}),
        ("absent.py:router", [], {}),
        ("numpy", [], {"profile": "fast"}),
        ("numpy", [], {"known_failures": Path("absent.txt")}),
        ("numpy", ["OKR-TIE-001"], {"outputs": {"json": Path("/no/such/folder/report.json")}}),
    ],
)
def test_wrong_usage_is_one_line(implementation, clauses, options, capsys):
    assert run(Request(implementation, tuple(clauses), **{"profile": "smoke", **options})) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_missing_function_is_unsupported_and_never_passes(tmp_path):
    code, report = conform(IMPOSTORS + "OnlySelect", "OKR-SCORE-001", "OKR-TIE-001", tmp_path=tmp_path)
    assert code == 1
    assert [c["verdict"] for c in report["clauses"]] == ["unsupported", "pass"]
    assert (report["passed"], report["applicable"]) == (1, 2)


def test_a_defect_of_the_suite_is_told_apart(monkeypatch, tmp_path):
    from okr.spec import oracle

    monkeypatch.setattr(oracle, "native", None)
    code, report = conform("numpy", "OKR-FAIL-005", tmp_path=tmp_path)
    assert code == 4
    assert report["clauses"][0]["verdict"] == "suite error"


@pytest.mark.parametrize(
    "router", ["okr.spec.zoo.ties:HigherPreference", "okr.spec.implementations.numpy_router:NumpyRouter"]
)
def test_every_adapter_gives_the_same_verdicts(router, tmp_path):
    clauses = ("OKR-TIE-001", "OKR-TIE-002", "OKR-KEY-002", "OKR-SCORE-002", "OKR-SEL-012")
    script = tmp_path / "router.py"
    module, name = router.split(":")
    script.write_text(f"from {module} import {name} as Router\n")
    found = []
    for implementation in (router, f"{script}:Router", WORKER + router):
        _, report = conform(implementation, *clauses, tmp_path=tmp_path)
        found.append([(c["id"], c["verdict"], c["cases"], c.get("failure", {}).get("case")) for c in report["clauses"]])
    assert found[0] == found[1] == found[2]
    assert [verdict for _, verdict, _, _ in found[0]].count("fail") == (1 if "zoo" in router else 0)


@pytest.mark.parametrize(
    "router",
    [
        "okr.spec.zoo.ties:HigherPreference",
        "okr.spec.zoo.key:LayerByte",
        "okr.spec.implementations.numpy_router:router",
    ],
)
def test_stored_answers_give_the_live_verdicts(router, tmp_path):
    """The fourth adapter: what a router says to the vectors, judged later, comes out as the vectors do live."""
    implementation = load(router)
    path = tmp_path / "answers.json"
    answers = {v.id: reply(implementation, v.function, as_request(v)) for v in vectors.load()}
    path.write_text(json.dumps({"answers": answers}))
    _, report = conform(f"vectors:{path}", tmp_path=tmp_path)
    stored = {c["id"]: c["verdict"] for c in report["clauses"]}
    live = {c.id: run_vectors(Subject(implementation), c) for c in chosen([]) if c.level == "routing"}
    assert {i: v for i, v in stored.items() if i in live and live[i].cases} == {
        i: r.verdict for i, r in live.items() if r.cases
    }
    failed = [i for i, r in live.items() if r.failed]
    assert bool(failed) == ("zoo" in router)
    assert all(stored[i] == "fail" for i in failed)


def as_request(vector):
    """A vector's question in the form of the JSON lines."""
    given = next(v for path in vectors.files() for v in json.loads(path.read_text())["vectors"] if v["id"] == vector.id)
    experts = {"experts": vector.case.experts} if vector.function == "select" else {}
    return {**given["input"], **experts}


def test_answers_worked_out_elsewhere_are_judged_like_live_ones(tmp_path):
    documents = [json.loads(path.read_text("utf-8")) for path in vectors.files()]
    answers = {
        v["id"]: stdlib_vectors.answer(v["function"], dict(v["input"]))
        for document in documents
        for v in document["vectors"]
        if v["function"] in FUNCTIONS
    }
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"answers": answers}))
    code, _ = conform(f"vectors:{path}", "OKR-TIE", "OKR-STR", tmp_path=tmp_path)
    assert code == 0
    answers["selections/tied-keys"] = {"indices": [[1, 5]]}
    path.write_text(json.dumps({"answers": answers}))
    code, report = conform(f"vectors:{path}", "OKR-TIE", tmp_path=tmp_path)
    assert code == 1
    assert [c["id"] for c in report["clauses"] if c["verdict"] == "fail"] == ["OKR-TIE-001"]


def test_known_failures_are_strict_and_need_reasons(tmp_path, capsys):
    known = tmp_path / "known.txt"
    router = "okr.spec.zoo.ties:HigherPreference"
    known.write_text("OKR-TIE-001 the kernel sorts backwards\n# a comment\n")
    assert conform(router, "OKR-TIE-001", "OKR-TIE-002", known_failures=known)[0] == 0
    assert "as expected" in capsys.readouterr().out
    known.write_text("OKR-TIE-001 the kernel sorts backwards\nOKR-TIE-002 no longer true\n")
    assert conform(router, "OKR-TIE-001", "OKR-TIE-002", known_failures=known)[0] == 1
    assert "take it off the list" in capsys.readouterr().out
    for text in (b"OKR-TIE-001\n", b"OKR-NO-001 a reason\n", b"OKR-TIE-001 a\nOKR-TIE-001\tb\n", b"\xff\xfe"):
        known.write_bytes(text)
        assert conform(router, "OKR-TIE-001", known_failures=known)[0] == 2


def test_a_failure_fits_one_screen_and_can_be_repeated(capsys):
    assert conform("okr.spec.zoo.ties:HigherPreference", "OKR-TIE-001")[0] == 1
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    for part in ("Equal preferences go to the lower index", "expected", "got", "often", "reproduce", "okr conform"):
        assert part in text
    snippet = text[text.index("import numpy") : text.index("  again")]
    namespace = {}
    exec("\n".join(line.strip() for line in snippet.splitlines()), namespace)
    assert "[" in capsys.readouterr().out


@pytest.mark.parametrize("router", ["okr.spec.zoo.ties:RoughKeys", "numpy"])
def test_equal_runs_give_equal_reports(router, tmp_path):
    """Byte for byte but for the times at the end, in two processes that hash strings differently."""
    clauses, path = ("OKR-TIE-001", "OKR-TIE-006"), tmp_path / "report.json"
    run(Request(router, clauses, "ci", {"json": path}))
    other = tmp_path / "other.json"
    command = [sys.executable, "-m", "okr.commands.conform", router, *clauses, "--profile", "ci", "--json", str(other)]
    subprocess.run(command, check=False, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    reports = [p.read_text("utf-8").partition('"seconds"') for p in (path, other)]
    assert all(times for _, _, times in reports)
    assert reports[0][0] == reports[1][0]


PROGRAM = """
import json, sys
from okr.spec.adapters.worker import reply
from okr.spec.implementations.numpy_router import router

for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    answer = json.dumps(reply(router, request["function"], request["arguments"]))
    print(answer if number < 3 else {bad}, flush=True)
"""


@pytest.mark.parametrize(
    ("bad", "verdict", "found"),
    [
        ("'garbage {'", "crash", "no JSON"),
        ("'[' * 100_000", "crash", "no JSON"),
        ("'[1, 2]'", "crash", "no object"),
        ("'{}'", "shape", "no indices"),
        ("json.dumps({'indices': [[0], [1, 2]]})", "dtype", "cannot be read"),
        ("answer + chr(10) + answer", "crash", "more lines than one"),
        ("'x' * (70 << 20)", "crash", "more than 64 MiB"),
        ("sys.exit(9)", "crash", "exit status 9"),
    ],
)
def test_a_program_that_goes_wrong_later_has_a_clear_verdict(bad, verdict, found, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("{bad}", bad))
    command = f"cmd:env PYTHONPATH={Path(vectors.HERE).parents[2]} {sys.executable} {script}"
    code, report = conform(command, "OKR-TIE-001", tmp_path=tmp_path)
    assert code == 1
    [clause] = report["clauses"]
    assert clause["verdict"] == verdict
    assert found in clause["failure"]["what"]


def test_a_large_case_is_repeated_in_full():
    case = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    text = reproduction(Call("select", {"args": (case, case[:0]), "top_k": 2}), "numpy")
    seen = {}

    class Stub:
        def select(self, *arrays, top_k):
            seen["arrays"] = arrays

    exec(text.replace("from okr.spec.adapters import load", ""), {"load": lambda name: Stub()})
    assert seen["arrays"][0].tobytes() == case.tobytes()
    assert seen["arrays"][1].shape == (0, 64)


def test_arrays_are_shown_to_the_last_bit():
    """A hundred thousand float32 numbers of every size, and those that are no numbers."""
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    numbers = np.concatenate([bits.view(np.float32), np.array([0.0, -0.0, np.inf, -np.inf], np.float32)])[None]
    again = eval(show(numbers), {"np": np})
    same = (again.view(np.uint32) == numbers.view(np.uint32)) | (np.isnan(again) & np.isnan(numbers))
    assert same.all()


def test_what_cannot_bake_is_not_praised_for_refusing():
    """A function that is not there refuses everything."""
    with pytest.raises(Unsupported, match="has no function bake"):
        Subject(load("numpy")).refuses("bake", None)
