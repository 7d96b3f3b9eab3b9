"""``okr generate``: text on standard output, traces that prove the key; ``okr discover`` of a configuration alone."""

import json
import shutil
from math import inf

import pytest
from small_models import random_deepseek

import okr
from okr import Key
from okr.cli import execute
from okr.experiment.presets import GUIDE_SETTING, SWITCH_SETTINGS
from okr.routing import NAMED, Setting
from okr.routing.named import QUIET_STRENGTH

SHORT = ["--max-new-tokens", "12"]


@pytest.fixture
def key_file(tmp_path):
    Key.generate().save(tmp_path / "key.json")
    return str(tmp_path / "key.json")


def test_what_is_generated_is_proven_by_its_traces(tmp_path, key_file, capsys):
    traces = tmp_path / "traces"
    words = ["generate", "tiny", "It was the best", "of times", "--key", key_file, "--traces", str(traces), *SHORT]
    assert execute(words) == 0
    texts = capsys.readouterr().out.split("\n---\n")
    assert len(texts) == 2
    assert all(text.strip() for text in texts)
    files = sorted(map(str, traces.iterdir()))
    assert len(files) == 2
    assert execute(["verify", "tiny", *files, "--key", key_file]) == 0
    assert execute(words) == 2  # nothing is overwritten
    assert "exists: choose another folder" in capsys.readouterr().err


def test_a_seed_repeats_and_the_batch_does_not_matter_where_it_is_greedy(tmp_path, key_file, capsys):
    def texts(*options):
        assert execute(["generate", "tiny", "It was", "The end", "--json", "--key", key_file, *SHORT, *options]) == 0
        return json.loads(capsys.readouterr().out)

    first = texts()
    assert texts() == first
    assert texts("--seed", "1") != first
    assert first["setting"] == {"epsilon": "inf", "zone": "boundary", "strength": QUIET_STRENGTH}
    assert texts("--temperature", "0", "--batch-size", "1") == texts("--temperature", "0", "--batch-size", "2")


def test_without_a_key_the_native_routing_is_recorded(tmp_path, key_file, capsys):
    assert execute(["generate", "tiny", "It was", "--traces", str(tmp_path), "--json", *SHORT]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["key_id"] is None
    words = ["verify", "tiny", document["texts"][0]["trace"], "--key", key_file]
    assert execute([*words, "--setting", "loud"]) == 1
    capsys.readouterr()
    assert execute(words) == 2
    assert "recorded without a key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to go on from"),
        (["  "], "nothing to go on from"),
        (["a", "--prompts", "missing.txt"], "cannot read prompt file"),
        (["a", "--temperature", "nan"], "temperature"),
        (["a", "--seed", "-3"], "seed"),
        (["a", "--max-new-tokens", "0"], "max-new-tokens"),
        (["a", "--max-new-tokens", "100000"], "leaves no room"),
        (["a", "--key", "missing.json"], "cannot read key file"),
        (["a", "--epsilon", "-1"], "epsilon"),
        (["a", "--setting", "silent"], "--setting must be quiet or loud, got 'silent'"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert execute(["generate", "tiny", *words]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "words", "setting"),
    [
        ("tiny", [], NAMED["quiet"]),
        ("tiny", ["--setting", "loud", "--strength", "2"], Setting(inf, "boundary", 2.0)),
        ("tiny-deepseek-moe", ["--zone", "max"], Setting(inf, "max", QUIET_STRENGTH)),
        ("tiny-switch", ["--setting", "loud"], SWITCH_SETTINGS["loud"]),
        ("deepseek-moe", [], GUIDE_SETTING),
        ("deepseek-moe", ["--epsilon", "1"], Setting(1.0, "max", inf)),
        ("deepseek-moe", ["--setting", "quiet"], NAMED["quiet"]),
        ("some/model", [], NAMED["quiet"]),
        ("some/model", ["--epsilon", "1"], Setting(1.0, "max", inf)),
        ("some/model", ["--setting", "quiet", "--epsilon", "1"], Setting(1.0, "boundary", QUIET_STRENGTH)),
    ],
)
def test_the_setting_is_the_one_asked_for_or_the_presets(model, words, setting, key_file, monkeypatch):
    asked = []

    def watermark(model, key, **values):
        asked.append(Setting(**values))
        raise okr.InvalidSetting("asked")

    monkeypatch.setattr("okr.jobs.loading.load_placed", lambda placement: okr.Loaded(None, None, "", None))
    monkeypatch.setattr("okr.engines.watermark", watermark)
    assert execute(["generate", model, "a", "--key", key_file, *words]) == 2
    assert asked == [setting]


@pytest.mark.parametrize("kept", ["config.json", "weights"])
def test_a_folder_without_weights_or_tokenizer_is_discovered(tmp_path, capsys, kept):
    model = random_deepseek()
    model.save_pretrained(tmp_path / "model")
    if kept == "config.json":
        (tmp_path / "model" / "model.safetensors").unlink()
    assert execute(["discover", str(tmp_path / "model"), "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)
    assert [(site["num_experts"], site["top_k"], site["keyable"]) for site in sites] == [(16, 4, True)] * 2
    shutil.rmtree(tmp_path / "model")
    assert execute(["discover", str(tmp_path / "model")]) == 2
