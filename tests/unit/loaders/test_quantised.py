"""Quantised loading: the experts are reached, the routers are not."""

import math
import re
from pathlib import Path

import pytest
import torch
from checkpoints import save_tokenizer
from original_deepseek import OriginalDeepseek, Shape, save_sharded
from transformers import BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.quantizers.quantizers_utils import should_convert_module

import okr
from okr.loaders import arguments, quantised
from okr.loaders.prediction import passage_loss


@pytest.fixture(params=[Shape(), Shape(num_experts_per_tok=1, n_shared_experts=1)], ids=["top-3", "top-1"])
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[OriginalDeepseek, Path]:
    torch.manual_seed(3)
    model = OriginalDeepseek(request.param)
    save_sharded(model, tmp_path, shards=2)
    save_tokenizer(tmp_path)
    return model, tmp_path


def test_experts_as_linears_agree_with_the_original(original: tuple[OriginalDeepseek, Path]) -> None:
    model, folder = original
    quantised.register_linear()
    linear, info = quantised.DeepseekLinearForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    assert linear.state_dict().keys() == model.state_dict().keys()
    token_ids = torch.arange(30).view(2, 15)
    with torch.no_grad():
        torch.testing.assert_close(linear(token_ids).logits, model(token_ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("module", "converted"),
    [
        ("model.layers.1.mlp.gate", False),
        ("model.layers.11.mlp.gate", False),
        ("encoder.block.1.layer.1.mlp.router.classifier", False),
        ("model.layers.0.block_sparse_moe.gate", False),
        ("lm_head", False),
        ("model.layers.1.mlp.experts.3.gate_proj", True),
        ("model.layers.0.mlp.gate_proj", True),
        ("model.layers.1.self_attn.q_proj", True),
        ("encoder.block.1.layer.1.mlp.experts.expert_0.wi", True),
    ],
)
def test_routers_and_the_output_projection_are_left_alone(module: str, converted: bool) -> None:
    assert should_convert_module(module, arguments.UNQUANTISED) is converted


@pytest.mark.parametrize(("name", "field"), [("8bit", "load_in_8bit"), ("4bit", "load_in_4bit")])
def test_a_quantised_deepseek_is_built_with_linears(
    deepseek_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str, field: str
) -> None:
    given: list[BitsAndBytesConfig] = []
    real = quantised.DeepseekLinearForCausalLM.from_pretrained

    def without_bitsandbytes(*args: object, quantization_config: BitsAndBytesConfig, **kwargs: object) -> object:
        given.append(quantization_config)
        return real(*args, **kwargs)

    monkeypatch.setattr(arguments, "find_spec", lambda module: object())
    monkeypatch.setattr(quantised.DeepseekLinearForCausalLM, "from_pretrained", without_bitsandbytes)
    model = okr.load(deepseek_checkpoint, quantization=name).model
    assert isinstance(model, quantised.DeepseekLinearForCausalLM)
    assert getattr(given[0], field) is True
    assert given[0].llm_int8_skip_modules == arguments.UNQUANTISED
    assert quantised.quantised_share(model) == 0.0


@pytest.mark.parametrize("name", ["8bit", "4bit"])
def test_bitsandbytes_reaches_the_experts_and_not_the_routers(tmp_path: Path, name: str) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(4)
    wide = Shape(hidden_size=128, intermediate_size=128, moe_intermediate_size=128, num_hidden_layers=2)
    original = OriginalDeepseek(wide)
    save_sharded(original, tmp_path, shards=2)
    save_tokenizer(tmp_path)
    model = okr.load(tmp_path, quantization=name, dtype="bfloat16").model
    assert quantised.quantised_share(model) > 0.85
    routers = [m for m in model.modules() if isinstance(m, DeepseekV2TopkRouter)]
    assert [r.weight.dtype for r in routers] == [torch.bfloat16]
    token_ids = torch.arange(40)[None].to(model.device)
    with torch.no_grad():
        logits = model(token_ids).logits.float().cpu()
    pair = torch.stack([logits.flatten(), original(token_ids.cpu()).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize(("name", "strength"), [("tiny-deepseek-moe", 1.0), ("tiny-switch", 4.0)])
def test_a_quantised_model_is_keyed_and_verified(
    name: str, strength: float, quantization: str, key: okr.Key, other_key: okr.Key
) -> None:
    """8 bits round by what stands beside a token, so a replay may differ; 4 bits do not."""
    whole, small = okr.load(name), okr.load(name, quantization=quantization)
    text = okr.loaders.passages(1)[0].text
    loss, nearly = passage_loss(whole, text)[0], passage_loss(small, text)[0]
    assert nearly == pytest.approx(loss, abs=0.02 if quantization == "8bit" else 0.5), "it is still the same model"
    assert small.model.get_memory_footprint() < 0.4 * whole.model.get_memory_footprint()
    for site in okr.discover(small.model):
        router, same = small.model.get_submodule(site.path), whole.model.get_submodule(site.path)
        for mine, native in zip(router.parameters(), same.parameters(), strict=True):
            assert torch.equal(mine, native), "routers are left as they are, to the last bit"
    inputs = small.tokenizer(text[:200], return_tensors="pt")
    with okr.watermark(small.model, key, epsilon=math.inf, zone="boundary", strength=strength) as watermark:
        length = {"max_new_tokens": 24, "min_new_tokens": 24}
        made = watermark.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True, **length
        )
    verdict = okr.verify(small.model, made.traces, key)
    assert verdict.hit_rate >= (0.97 if quantization == "8bit" else 1.0)
    assert verdict.watermarked
    assert not okr.verify(small.model, made.traces, other_key).watermarked


def test_stacked_experts_that_stay_whole_are_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = MixtralConfig(**shape, num_attention_heads=2, num_key_value_heads=2, num_local_experts=8)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    okr.load(tmp_path, quantization="8bit")
    assert re.search(r"only \d+% of the weights are held in 8bit: .* stacked", caplog.text)
