"""The commands that need a model: discover, run, verify, validate."""

import json
from pathlib import Path

import pytest
from small_runs import SMALL

from okr.cli import execute
from okr.routing import Key


def test_discover_lists_every_router(deepseek_folder: Path, capfd: pytest.CaptureFixture) -> None:
    assert execute(["discover", str(deepseek_folder), "--json"]) == 0
    sites = json.loads(capfd.readouterr().out)
    assert [site["path"] for site in sites] == ["model.layers.1.mlp.gate", "model.layers.2.mlp.gate"]
    assert all((site["num_experts"], site["top_k"], site["keyable"]) == (16, 4, True) for site in sites)
    assert execute(["discover", str(deepseek_folder)]) == 0
    assert "model.layers.{i}.mlp.gate" in capfd.readouterr().out


def test_verify_tells_the_key_from_another_by_its_exit_code(
    finished: Path, deepseek_folder: Path, key_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    trace = str(finished / "traces" / "watermarked-0000.safetensors")
    options = ["--decoys", str(SMALL["decoys"]), "--alpha", str(SMALL["alpha"])]
    assert execute(["verify", str(deepseek_folder), trace, "--key", str(key_file), *options]) == 0
    assert capfd.readouterr().out.startswith("watermarked under key")
    Key.from_passphrase("quite another passphrase").save(tmp_path / "other.json")
    words = ["verify", str(deepseek_folder), trace, "--key", str(tmp_path / "other.json"), *options, "--json"]
    assert execute(words) == 1
    said = json.loads(capfd.readouterr().out)
    assert (said["watermarked"], said["pooled"]) == (False, None)
    assert said["files"][0]["p_value"] > SMALL["alpha"]


def test_several_traces_are_one_test_and_a_control_needs_a_setting(
    finished: Path, deepseek_folder: Path, key_file: Path, capfd: pytest.CaptureFixture
) -> None:
    traces = [str(path) for path in sorted((finished / "traces").glob("control-*"))[:2]]
    words = ["verify", str(deepseek_folder), *traces, "--key", str(key_file)]
    assert execute(words) == 2
    assert "say which epsilon, zone and strength" in capfd.readouterr().err
    assert execute([*words, "--epsilon", "inf", "--zone", "boundary", "--strength", "1", "--json"]) in (0, 1)
    assert json.loads(capfd.readouterr().out)["pooled"]["opportunities"] > 0


def test_run_prints_its_summary_alone_on_stdout_with_json(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKR_QUALITY_PASSAGES", "2")
    (tmp_path / "prompts.txt").write_text("The whale rose\n\nIt is a truth\n")
    out = tmp_path / "out"
    words = ["run", "--model", str(deepseek_folder), "--output-dir", str(out), "--samples", "3", "--max-length", "6"]
    assert execute([*words, "--prompts", str(tmp_path / "prompts.txt"), "--json"]) == 0
    printed = capfd.readouterr()
    document = json.loads((out / "results.json").read_text())
    assert json.loads(printed.out) == document["summary"]
    prompts = [sample["prompt"] for sample in document["detailed_results"]]
    assert prompts == ["The whale rose", "It is a truth", "The whale rose"]
    assert document["config_sources"]["samples"] == "flag"
    assert document["config_sources"]["quality_passages"] == "environment"
    assert document["config_sources"]["zone"] == "preset"
    assert execute([*words, "--prompts", str(tmp_path / "prompts.txt"), "--resume"]) == 0
    printed = capfd.readouterr()
    assert "found watermarked" in printed.out
    assert "key.json" in printed.out
    assert "watermarked samples" in printed.err


def test_validate_accepts_a_run_and_refuses_an_edited_one(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert execute(["validate", str(finished / "results.json"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["valid"] is True
    document = json.loads((finished / "results.json").read_text())
    document["summary"]["watermarked_samples"] -= 1
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert execute(["validate", str(tmp_path / "results.json")]) == 2
    assert "counts are not those of the samples" in capfd.readouterr().err
