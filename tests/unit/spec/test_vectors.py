"""The static vectors are current, well formed, and answered by a stranger."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from okr.spec import vectors
from okr.spec.subject import Subject
from okr.spec.vectors.__main__ import render
from okr.spec.verdicts import Violation

CONSUMER = Path(vectors.HERE).parent / "implementations" / "stdlib_vectors.py"


def test_the_files_are_what_the_command_writes():
    assert {path.name: path.read_text("utf-8") for path in vectors.files()} == render()


@pytest.mark.parametrize("path", vectors.files(), ids=lambda path: path.name)
def test_the_files_follow_the_schema(path):
    schema = json.loads(vectors.SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text("utf-8")))


def test_ids_are_unique_and_every_vector_says_what_it_hunts():
    ids = [vector.id for vector in vectors.load()]
    assert len(set(ids)) == len(ids)
    assert all(vector.hunts and vector.clauses for vector in vectors.load())


def test_a_consumer_without_dependencies_answers_them_all():
    source = CONSUMER.read_text("utf-8")
    assert len(source.splitlines()) < 100
    run = [sys.executable, "-S", "-I", str(CONSUMER), str(vectors.HERE)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(vectors.load())} of {len(vectors.load())}" in done.stdout


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
