"""The 16B shape with random weights, at a tiny size: the same code as at full size."""

import pytest
import torch

import okr
from okr.errors import InvalidSetting, OutOfMemory
from okr.loaders import loading, random_weights
from okr.loaders.deepseek import DeepseekConfig

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


def test_the_full_shape_is_the_published_one():
    """16.4 thousand million weights; 27 routed layers of 64 experts."""
    config = DeepseekConfig(**random_weights.SHAPE)
    assert random_weights.weight_bytes(config, torch.bfloat16) == 2 * 16_375_728_128
    assert [config.is_routed(layer) for layer in range(28)] == [False] + [True] * 27


def test_it_loads_with_a_tokenizer_routes_and_repeats(tiny_shape):
    state = torch.get_rng_state()
    loaded, again = okr.load("deepseek-moe-random"), okr.load("deepseek-moe-random", device_map="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert (loaded.source, loaded.revision) == ("deepseek-moe-random", None)
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert all(map(torch.equal, loaded.model.parameters(), again.model.parameters()))
    assert [(site.num_experts, site.top_k, site.keyable) for site in okr.discover(loaded.model)] == [(64, 6, True)] * 2
    inputs = loaded.tokenizer("A river ran past the town", return_tensors="pt")
    key = okr.Key(bytes(range(32)))
    with okr.watermark(loaded.model, key, epsilon=2.0) as wm:
        made = wm.generate(input_ids=inputs["input_ids"], max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert okr.verify(loaded.model, made.traces[0], key).opportunities > 0


def test_another_dtype_is_drawn_as_such(tiny_shape):
    assert okr.load("deepseek-moe-random", dtype="float32").model.dtype == torch.float32


def test_what_does_not_fit_is_refused_with_figures_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(random_weights, "get_max_memory", lambda given: {0: 20_000_000_000, "cpu": 10_000_000_000})
    made = []
    monkeypatch.setattr(random_weights.DeepseekForCausalLM, "from_pretrained", lambda *a, **k: made.append(a))
    for device_map, room in ((None, "10.0"), ("cpu", "10.0"), ("cuda:0", "20.0"), ("auto", "30.0")):
        with pytest.raises(OutOfMemory, match=rf"32\.8 GB of random weights do not fit into the {room} GB"):
            random_weights.random_model(DeepseekConfig(**random_weights.SHAPE), device_map=device_map)
    assert made == []


def test_it_is_not_quantised():
    pytest.importorskip("bitsandbytes", reason="without bitsandbytes no quantisation gets as far as the model")
    with pytest.raises(InvalidSetting, match="no weights to quantise"):
        okr.load("deepseek-moe-random", quantization="8bit")
