"""``okr serve`` and ``--engine vllm`` where vLLM is not installed, and responses as evidence for ``okr verify``."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import okr
from okr import Key
from okr.cli import execute
from okr.engines.vllm.serving import is_installed

WITHOUT = not is_installed()


@pytest.fixture
def key_file(key: Key, tmp_path: Path) -> Path:
    key.save(tmp_path / "key.json")
    return tmp_path / "key.json"


@pytest.fixture(scope="module")
def response() -> dict[str, Any]:
    """Two answers under the key, as a server gives them."""
    import torch

    model, key = okr.load("tiny").model, Key(bytes(range(32)))
    with okr.watermark(model, key, setting="quiet") as watermark:
        made = watermark.generate(torch.tensor([[1, 498, 2058]] * 2), max_new_tokens=40, do_sample=True).traces
    choices = []
    for trace in made:
        file = io.BytesIO()
        np.save(file, trace.experts)
        tokens = trace.token_ids.tolist()
        experts = base64.b64encode(file.getvalue()).decode()
        choices.append({"prompt_token_ids": tokens[:3], "token_ids": tokens[3:], "routed_experts": experts})
    setting = {"zone": "boundary", "epsilon": "inf", "strength": 0.1}
    return {"choices": choices, "okr_key_id": key.id, "okr_setting": setting}


def test_every_answer_of_a_response_is_judged(response: Any, key_file: Path, tmp_path: Path, capsys: Any) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps(response))
    assert execute(["verify", "tiny", str(answer), "--key", str(key_file)]) == 0
    shown = capsys.readouterr().out
    assert "answer.json[0]: watermarked" in shown
    assert "answer.json[1]: watermarked" in shown
    del response["okr_setting"]
    answer.write_text(json.dumps(response))
    assert execute(["verify", "tiny", str(answer), "--key", str(key_file)]) == 2
    assert "which epsilon, zone and strength" in capsys.readouterr().err
    assert execute(["attribute", "tiny", str(answer), "--key", str(key_file), "--setting", "quiet"]) == 0


@pytest.mark.parametrize("content", ["{", "{}", '{"choices": [{}]}', '{"choices": 3}'])
def test_a_response_that_is_none_is_refused(content: str, key_file: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "answer.json").write_text(content)
    assert execute(["verify", "tiny", str(tmp_path / "answer.json"), "--key", str(key_file)]) == 2
    error = capsys.readouterr().err.strip()
    assert "answer.json" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "jax"], "transformers or vllm"),
        (["--engine-options", "{}"], "add --engine vllm"),
        (["--engine", "vllm", "--device", "cpu"], "leave --device out"),
        (["--engine", "vllm", "--engine-options", "[1]"], "JSON object"),
        (["--engine", "vllm", "--engine-options", "{"], "JSON object"),
    ],
)
def test_options_of_engines_are_checked_first(options: list[str], message: str, key_file: Path, capsys: Any) -> None:
    assert execute(["verify", "tiny", "absent.safetensors", "--key", str(key_file), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not WITHOUT, reason="vLLM is installed: serving/ tests it")
def test_without_vllm_one_line_says_how_to_get_it(response: Any, key_file: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "answer.json").write_text(json.dumps(response))
    for line in (
        ["verify", "tiny", str(tmp_path / "answer.json"), "--key", str(key_file), "--engine", "vllm"],
        ["serve", "tiny", "--key", str(key_file), "--port", "8000"],
    ):
        assert execute(line) == 2
        assert "pip install vllm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "env:KEY"], "must be a file"),
        (["--key", "absent.json"], "must be a file"),
        (["--key", "KEY", "--setting", "medium"], "quiet or loud"),
        (["--key", "KEY", "--traces", "t", "--no-routed-experts"], "--traces needs"),
        (["--key", "KEY", "--traces", "KEY/t"], "cannot be written"),
        (["--key", "OTHER"], "not an OKR key file"),
    ],
)
def test_serve_says_what_is_wrong_before_it_starts(
    options: list[str], message: str, key_file: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "other").write_text("nothing")
    given = [part.replace("KEY", str(key_file)).replace("OTHER", str(tmp_path / "other")) for part in options]
    given = [part if part != f"env:{key_file}" else "env:KEY" for part in given]
    assert execute(["serve", "tiny", *given, "--dry-run"]) == 2
    assert message in capsys.readouterr().err
