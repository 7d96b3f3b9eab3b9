"""examples/fastapi_app.py in front of a real server: readers get text and key id, and what it keeps proves the text."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from servers import Server

from okr.cli import execute

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fastapi_app.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def client_of(example: ModuleType) -> Any:
    from fastapi.testclient import TestClient

    return TestClient(example.app)


def test_a_reader_gets_text_and_the_answer_is_proven(
    server: Server, key_file: Path, example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKR_SERVER", server.url)
    with client_of(example) as client:
        told = client.post("/write", json={"prompt": "The whale", "max_tokens": 32}).json()
        assert set(told) == {"id", "text", "key_id"}
        answer = client.get(f"/answers/{told['id']}").json()
        assert client.get("/answers/another").status_code == 404
    assert answer["choices"][0]["text"] == told["text"] != ""
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    assert execute(["verify", "tiny", str(tmp_path / "answer.json"), "--key", str(key_file)]) == 0


def test_a_server_that_refuses_is_named(server: Server, example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKR_SERVER", server.url)
    monkeypatch.setenv("OKR_MODEL", "no such model")
    with client_of(example) as client:
        refused = client.post("/write", json={"prompt": "The whale"})
    assert (refused.status_code, refused.json()["detail"]) == (502, "the server of the model answered 404")
