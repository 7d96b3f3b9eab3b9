"""The static vectors are current, well formed, and answered by a stranger."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from okr.spec import evidence, vectors
from okr.spec.subject import Subject
from okr.spec.vectors.__main__ import render
from okr.spec.verdicts import Violation

CONSUMERS = Path(vectors.HERE).parent / "implementations"


def test_the_files_are_what_the_command_writes():
    assert {path.name: path.read_text("utf-8") for path in vectors.files()} == render()


@pytest.mark.parametrize("path", vectors.files(), ids=lambda path: path.name)
def test_the_files_follow_the_schema(path):
    schema = json.loads(vectors.SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text("utf-8")))


def test_ids_are_unique_and_every_vector_says_what_it_hunts():
    everything = [*vectors.load(), *vectors.load_evidence()]
    ids = [vector.id for vector in everything]
    assert len(set(ids)) == len(ids)
    assert all(vector.hunts and vector.clauses for vector in everything)


@pytest.mark.parametrize(
    ("consumer", "stored"),
    [("stdlib_vectors.py", vectors.load), ("stdlib_evidence.py", vectors.load_evidence)],
    ids=["routers", "evidence"],
)
def test_a_consumer_without_dependencies_answers_them_all(consumer, stored):
    path = CONSUMERS / consumer
    assert len(path.read_text("utf-8").splitlines()) < 100
    done = consumed(path, vectors.HERE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(stored())} of {len(stored())}" in done.stdout


def consumed(path, folder):
    """What a consumer says to the vectors in a folder."""
    return subprocess.run(
        [sys.executable, "-S", "-I", str(path), str(folder)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["swaps", "z", "p_value"])
def test_the_consumer_of_the_evidence_notices_another_answer(name, tmp_path):
    document = json.loads((vectors.HERE / "4-evidence.json").read_text("utf-8"))
    expected = document["vectors"][0]["expected"]
    expected[name] = expected[name] * 1.001 + 1e-3
    (tmp_path / "4-evidence.json").write_text(json.dumps(document))
    done = consumed(CONSUMERS / "stdlib_evidence.py", tmp_path)
    assert done.returncode == 1
    assert document["vectors"][0]["id"] in done.stdout


def test_every_clause_of_the_evidence_that_one_trace_can_show_has_vectors():
    shown = {clause for vector in vectors.load_evidence() for clause in vector.clauses}
    assert shown == {f"OKR-EVIDENCE-00{number}" for number in range(1, 6)}


@pytest.mark.parametrize(
    ("clause", "change"),
    [
        ("OKR-EVIDENCE-001", lambda found: {"weights": tuple(1.001 * part for part in found.weights)}),
        ("OKR-EVIDENCE-003", lambda found: {"z": 1.001 * found.z}),
        ("OKR-EVIDENCE-004", lambda found: {"p_value": 1.001 * found.p_value}),
    ],
)
def test_a_vector_of_the_evidence_judges_weights_z_and_p(clause, change):
    [vector] = [vector for vector in vectors.load_evidence() if vector.id == "evidence/plain"]
    right = evidence.answer(vector.case)

    class Says:
        def __init__(self, answer):
            self.evidence = lambda case: answer

    vector.judge(Subject(Says(right)), clause)
    with pytest.raises(Violation):
        vector.judge(Subject(Says(replace(right, **change(right)))), clause)


def test_broken_tokens_must_still_run_distinct_experts():
    vector = next(v for v in vectors.load() if v.id == "selections/too-few")

    class Says:
        def __init__(self, *experts):
            self.indices = [experts]

        def select(self, choice, key_scores, **setting):
            return self.indices

    vector.judge(Subject(Says(2, 1)), "OKR-FAIL-003")
    for experts in ((1, 1), (1, 3)):
        with pytest.raises(Violation):
            vector.judge(Subject(Says(*experts)), "OKR-FAIL-003")
