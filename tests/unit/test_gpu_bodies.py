"""The bodies of the GPU suite on the CPU at a tiny size."""

import re
from pathlib import Path

import pytest
import torch
from small_models import random_deepseek

import okr
from okr.loaders import loading, random_weights, sources
from okr.routing import Setting
from tests.gpu import bodies
from tests.gpu.conftest import shortage

SUITE = Path(__file__).resolve().parents[1] / "gpu"
TINY = random_weights.SHAPE | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "vocab_size": 5000,
}


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setattr(loading, "SHAPE", TINY)


def test_the_complete_experiment_validates_and_its_samples_are_watermarked(tiny_shape, tmp_path):
    document = bodies.complete_experiment(
        sources.RANDOM, tmp_path / "run", device="cpu", samples=2, max_length=12, quality_passages=2
    )
    assert document["summary"]["watermarked_samples"] == 2
    assert document["summary"]["average_hit_rate"] >= 0.99
    assert document["config"]["dtype"] == "bfloat16"


def test_the_subject_is_the_random_model_unless_the_search_order_finds_the_real_one(monkeypatch, tmp_path):
    monkeypatch.delenv(sources.DEEPSEEK_VARIABLE, raising=False)
    monkeypatch.setattr(sources, "DEEPSEEK_FOLDER", str(tmp_path / "nothing"))
    monkeypatch.setattr(bodies, "try_to_load_from_cache", lambda *place: None)
    assert bodies.subject() == sources.RANDOM
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv(sources.DEEPSEEK_VARIABLE, str(tmp_path))
    assert bodies.subject() == "deepseek-moe"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("setting", [Setting(2.0, "max"), Setting(1.0, "boundary", 1.0)], ids=["max", "boundary"])
def test_selections_lie_within_the_oracles_legal_sets(dtype, setting):
    model = random_deepseek(hidden_size=64, n_routed_experts=32).to(dtype)
    taken, faults = bodies.judged_selections(model, "cpu", setting, 60)
    assert faults == []
    assert taken.shape == (60, 4)


def test_selections_of_another_setting_are_caught():
    model = random_deepseek(hidden_size=64, n_routed_experts=32)
    assert len(bodies.judged_selections(model, "cpu", Setting(0.1, "max"), 60, judged_by=Setting(2.0, "max"))[1]) > 20


def test_hits_are_counted_over_opportunities():
    assert bodies.replayed_hit_rate(random_deepseek(), "cpu", batch=2, new_tokens=12) >= 0.99


def test_a_decode_step_is_what_the_model_gives_and_can_be_repeated():
    model = random_deepseek()
    with okr.watermark(model, bodies.KEY, epsilon=2.0), torch.no_grad():
        step = bodies.decoding.DecodeStep(model, "cpu")
        expected = model(torch.tensor([[7]])).logits[:, -1]
        assert torch.allclose(step(), expected, atol=1e-5)
        once = bodies.RoutersAlone(model, "cpu", 5)
        assert all(map(torch.equal, once(), once()))
        assert [experts.shape for experts in once()] == [(5, 4)] * 2


def test_a_compiled_decode_step_routes_as_an_eager_one(warm):
    done = bodies.run_compiled("cpu", "eager", str(warm / "python"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_quotes_the_suites_own_skip_and_every_size_that_it_asks_for(monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert f"`{shortage(40)}`" in page
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (3 * bodies.GIB, 8 * bodies.GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: "Some Card")
    assert shortage(40) == "needs 40 GiB free on the card; Some Card has 3.0 of 8.0 GiB free"
    assert shortage(2) == ""
    asked = {
        float(gib)
        for file in SUITE.glob("*.py")
        for gib in re.findall(r"(?:needs|shortage)\((\d+)\)", file.read_text())
    }
    assert {f"{gib:g} GiB" for gib in asked} - set(re.findall(r"\d+ GiB", page)) == set()
