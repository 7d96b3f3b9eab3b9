"""What verify, attribute, serve and generate make of a baked checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import okr
from okr.cli import execute
from okr.engines.vllm import serving
from okr.routing import Key
from okr.traces import Trace
from tests.unit.commands.baked_checkpoints import STRENGTH, refused, said

NUMBERS = ["--epsilon", "inf", "--zone", "boundary", "--strength", str(STRENGTH)]
PROMPT = 4


@pytest.fixture(scope="module")
def made(baked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A trace of the baked model, which transformers ran, and the same as a server's response: files."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    options = {"max_new_tokens": 96, "do_sample": True, "pad_token_id": 0, "eos_token_id": None}
    with okr.record(okr.load(baked).model) as session:
        [trace] = session.generate(input_ids=torch.randint(3, 384, (1, PROMPT)), **options).traces
    trace.save(folder / "trace.safetensors")
    (folder / "response.json").write_text(json.dumps(response(trace)))
    return str(folder / "trace.safetensors"), str(folder / "response.json")


def response(trace: Trace) -> dict[str, Any]:
    rows = np.zeros((len(trace.experts), 3, 4), int)  # layer 0 is dense
    rows[:, 1:] = trace.experts
    ids = trace.token_ids.tolist()
    choice = {"prompt_token_ids": ids[:PROMPT], "token_ids": ids[PROMPT:], "routed_experts": rows.tolist()}
    return {"id": "cmpl-1", "choices": [choice]}


def test_verification_with_the_baked_model_is_that_with_the_original(
    deepseek_folder: Path, baked: Path, made: tuple[str, str], key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    """But for rounding; and a response that names no setting has that of the baked model, as a trace does."""
    more = ["--key", str(key_file), "--decoys", "99", "--alpha", "0.01"]
    original = said(["verify", str(deepseek_folder), made[1], *more, *NUMBERS], capfd)["files"][0]
    for name in made:
        found = said(["verify", f"{baked}/", name, *more], capfd)["files"][0]
        assert found["watermarked"] is original["watermarked"] is True
        assert original["p_value"] < 1e-9
        assert np.log(found["p_value"]) == pytest.approx(np.log(original["p_value"]), rel=0.02)
        assert found["hit_rate"] == pytest.approx(original["hit_rate"], abs=0.01)
    assert "another model" in refused(["verify", str(deepseek_folder), made[0], *more, *NUMBERS], capfd)


def test_another_key_shows_nothing_and_attribution_names_the_one(
    baked: Path, made: tuple[str, str], key_file: Path, foreign_key: Path, capfd: pytest.CaptureFixture
) -> None:
    for name in made:
        found = said(["verify", str(baked), name, "--key", str(foreign_key)], capfd, 1)["files"][0]
        assert found["p_value"] == 1.0
        words = ["attribute", str(baked), name, "--key", str(foreign_key)]
        assert said([*words, "--key", str(key_file)], capfd)["key_id"] == Key.load(key_file).id
        assert said(words, capfd, 1)["key_id"] is None


def test_a_setting_that_is_given_takes_the_place_of_the_headers(
    baked: Path, made: tuple[str, str], key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    words = ["verify", str(baked), "--key", str(key_file)]
    for name in made:
        plain, same, other = (
            said([*words, name, *more], capfd)["files"][0]["p_value"] for more in ([], NUMBERS, ["--strength", "0.5"])
        )
        assert plain == same != other


def test_what_runs_no_code_of_ours_or_adds_a_key_refuses_a_baked_model(
    baked: Path, made: tuple[str, str], key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(serving, "is_installed", lambda: True)
    (tmp_path / "text.txt").write_text("some words of a text")
    key = ["--key", str(key_file)]
    for words in (["verify", str(baked), made[1]], ["attribute", str(baked), made[0]],
                  ["detect", str(baked), str(tmp_path / "text.txt"), "--setting", "loud"]):  # fmt: skip
        assert "is baked, and vLLM cannot take a key out" in refused([*words, *key, "--engine", "vllm"], capfd)
    for words in (["serve", str(baked), "--dry-run"], ["generate", str(baked), "words"]):
        assert "is baked: its weights carry a key already, so leave --key out" in refused([*words, *key], capfd)
    assert execute(["serve", str(baked), "--dry-run"]) == 0
