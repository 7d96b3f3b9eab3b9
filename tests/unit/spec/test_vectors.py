"""The static vectors are current, well formed, and answered by a stranger."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from spec import vectors
from spec.vectors.__main__ import render

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
