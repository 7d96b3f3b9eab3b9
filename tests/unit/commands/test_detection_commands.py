"""verify, detect and attribute at the command line."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SMALL

import okr
from okr.cli import execute
from okr.experiment.results import Results
from okr.routing import Key

SOFT = ["--epsilon", "inf", "--zone", "boundary", "--strength", "2"]


@pytest.fixture
def other_keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    for number in range(4):
        Key(bytes([number]) * 16).save(folder / f"{number}.json")
    return folder


def test_verify_shows_every_router(
    finished: Path, deepseek_folder: Path, key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    trace = str(finished / "traces" / "watermarked-0000.safetensors")
    words = ["verify", str(deepseek_folder), trace, "--key", str(key_file), "--skip-prompt", "--by-router"]
    assert execute([*words, "--decoys", str(SMALL["decoys"]), "--alpha", str(SMALL["alpha"])]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert re.search(r", (1 token|\d+ tokens) sufficed$", lines[0])
    assert [line.split()[0] for line in lines[1:]] == ["router", "model.layers.1.mlp.gate", "model.layers.2.mlp.gate"]


def test_traces_of_a_quantised_model_are_verified_by_it_and_less_well_without_quantisation(
    experiment: Callable[..., Results],
    key_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    made = experiment(Path("tiny-deepseek-moe"), tmp_path, quantization="4bit", samples=1, quality_passages=2)
    assert made.summary.average_hit_rate == 1.0
    trace = str(tmp_path / "traces" / "watermarked-0000.safetensors")
    words = ["verify", "tiny-deepseek-moe", trace, "--key", str(key_file)]
    words += ["--decoys", str(SMALL["decoys"]), "--alpha", str(SMALL["alpha"])]
    words.append("--json")
    assert execute([*words, "--quantization", "4bit"]) == 0
    quantised = json.loads(capfd.readouterr().out)["files"][0]
    assert quantised["hit_rate"] == 1.0
    assert execute(words) == 0
    whole = json.loads(capfd.readouterr().out)["files"][0]
    assert whole["chance_rate"] + 0.2 < whole["hit_rate"] < 0.95


def test_attribute_names_the_key_or_none(
    finished: Path, deepseek_folder: Path, key_file: Path, other_keys: Path, capfd: pytest.CaptureFixture
) -> None:
    trace = str(finished / "traces" / "watermarked-0000.safetensors")
    words = ["attribute", str(deepseek_folder), trace, "--key", str(other_keys)]
    assert execute([*words, "--key", str(key_file), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["key_id"] == Key.load(key_file).id
    assert len(found["candidates"]) == 5
    assert execute(words) == 1
    assert capfd.readouterr().out.startswith("none of 4 keys")
    assert execute([*words, "--key", str(other_keys / "0.json")]) == 2
    assert "twice" in capfd.readouterr().err


def test_detect_reads_files_and_standard_input(
    deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that a single man")
    words = ["detect", str(deepseek_folder), "--key", str(key_file), "--decoys", "19", "--alpha", "0.05", *SOFT]
    assert execute([*words, str(text), "--json"]) in (0, 1)
    one = json.loads(capfd.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes()), encoding="latin-1"))
    assert execute([*words, "-", "--json"]) in (0, 1)
    assert json.loads(capfd.readouterr().out)["files"] == [one["files"][0] | {"file": "-"}]
    assert execute([*words, str(text), str(text), "--json"]) in (0, 1)
    both = json.loads(capfd.readouterr().out)
    assert both["pooled"]["tokens"] == 2 * one["files"][0]["tokens"]
    assert [file["p_value"] for file in both["files"]] == [one["files"][0]["p_value"]] * 2


def test_a_prompt_is_read_and_not_judged(
    deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """As okr.detect says of the tokens of both with the prompt's number; several texts have a prompt each."""
    prompt, text = tmp_path / "prompt.txt", tmp_path / "text.txt"
    prompt.write_text("It is a truth universally acknowledged,")
    text.write_text(" that a single man in possession of a good fortune")
    words = ["detect", str(deepseek_folder), str(text), "--key", str(key_file), "--json", "--prompt", str(prompt)]
    words += ["--decoys", "19", "--alpha", "0.05", *SOFT]
    assert execute(words) in (0, 1)
    said = json.loads(capfd.readouterr().out)["files"][0]
    loaded, given = okr.load(deepseek_folder), {"epsilon": math.inf, "zone": "boundary", "strength": 2.0, "decoys": 19}
    front = loaded.tokenizer(prompt.read_text())["input_ids"]
    ids = front + loaded.tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    found = okr.detect(loaded.model, ids, Key.load(key_file), prompt_length=len(front), **given)
    assert said == json.loads(json.dumps(found.as_dict())) | {"file": str(text), "adjusted_p": found.p_value}
    assert said["tokens"] == len(ids) - len(front)
    assert execute([*words, str(text)]) == 2
    assert "2 texts, 1 prompts" in capfd.readouterr().err
    text.write_text("")
    assert execute(words) == 2
    assert "holds no text" in capfd.readouterr().err


def test_a_text_longer_than_the_model_is_judged_in_pieces(
    deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    text = tmp_path / "long.txt"
    text.write_text("the house of the lord " * 120)
    words = ["detect", str(deepseek_folder), str(text), "--key", str(key_file), "--decoys", "1", "--alpha", "0.5"]
    assert execute([*words, *SOFT, "--json"]) in (0, 1)
    assert json.loads(capfd.readouterr().out)["files"][0]["tokens"] > 512


def test_an_encoder_decoder_is_given_its_source(
    switch_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the whale rose")
    words = ["detect", str(switch_folder), str(text), "--key", str(key_file), "--decoys", "19", "--alpha", "0.05"]
    assert execute([*words, *SOFT, "--source", str(text)]) in (0, 1)
    capfd.readouterr()
    assert execute([*words, *SOFT]) == 2
    assert "source_ids" in capfd.readouterr().err
    assert execute([*words, *SOFT, "--source", str(text), "--prompt", str(text)]) == 2
    assert "--source" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.txt", *SOFT], "cannot read"),
        (["binary.txt", *SOFT], "not UTF-8"),
        (["empty.txt", *SOFT], "holds no text"),
        (["text.txt"], "epsilon"),
        (["text.txt", *SOFT, "--decoys", "5"], "decoys"),
        (["text.txt", *SOFT, "--rows", "0"], "rows"),
        (["text.txt", *SOFT, "--source", "text.txt"], "no encoder"),
        (["text.txt", "--epsilon", "nan"], "--epsilon"),
    ],
)
def test_bad_input_is_one_line(
    deepseek_folder: Path,
    key_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("empty.txt").write_text("")
    Path("text.txt").write_text("some words of text")
    assert execute(["detect", str(deepseek_folder), "--key", str(key_file), *words]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err
