"""Routers of full-size models, from their configurations alone: no weight is ever allocated."""

import resource

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen3MoeConfig,
    SwitchTransformersConfig,
)

from okr.discovery import discover_config, table
from okr.errors import RouterNotFound
from okr.loaders.deepseek import DeepseekConfig, register
from tests.unit.discovery.zoo import OLDER

SHAPES = {
    "deepseek-moe-16b": lambda: DeepseekConfig(
        vocab_size=102400,
        hidden_size=2048,
        intermediate_size=10944,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
        moe_intermediate_size=1408,
    ),
    "switch-base-8": lambda: SwitchTransformersConfig(num_sparse_encoder_layers=6, num_sparse_decoder_layers=6),
    "deepseek-v2": lambda: DeepseekV2Config(
        hidden_size=5120,
        num_hidden_layers=60,
        num_attention_heads=128,
        n_routed_experts=160,
        num_experts_per_tok=6,
        topk_method="group_limited_greedy",
        n_group=8,
        topk_group=3,
        first_k_dense_replace=1,
        moe_intermediate_size=1536,
    ),
    "deepseek-v3": lambda: DeepseekV3Config(),
    "mixtral-8x7b": lambda: MixtralConfig(),
    "qwen3-30b": lambda: Qwen3MoeConfig(num_hidden_layers=48),
    "olmoe-1b-7b": lambda: OlmoeConfig(),
}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    register()


@pytest.mark.parametrize("name", SHAPES)
def test_the_full_result_is_pinned(name, snapshot):
    sites = discover_config(SHAPES[name]())
    assert table(sites).splitlines() == snapshot
    if OLDER and name == "switch-base-8":
        pytest.skip("older releases of transformers rank by other calls; the table is the same")
    assert [(site.path, site.stack, site.layer, site.ranks, site.calls, site.flat) for site in sites] == snapshot


def test_a_16b_model_is_inspected_without_its_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sites = discover_config(SHAPES["deepseek-moe-16b"]())
    assert len(sites) == 27
    assert {(site.num_experts, site.top_k, site.hidden_size, site.keyable) for site in sites} == {(64, 6, 2048, True)}
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2**20  # KiB: 1 GiB


def test_the_makers_configuration_decides_not_a_guess():
    sites = discover_config(MixtralConfig(num_local_experts=16, num_experts_per_tok=5, num_hidden_layers=2))
    assert [(site.num_experts, site.top_k) for site in sites] == [(16, 5)] * 2


def test_a_dense_configuration_has_no_router():
    small = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64)
    with pytest.raises(RouterNotFound, match="未找到任何gate层") as caught:
        discover_config(small)
    assert any("layers.0.mlp" in line and "gate_proj" in line for line in caught.value.log)


def test_an_unknown_configuration_is_refused_by_name():
    class Unknown:
        pass

    with pytest.raises(RouterNotFound, match="Unknown"):
        discover_config(Unknown())


def test_no_default_device_is_left_behind():
    discover_config(SHAPES["switch-base-8"]())
    assert torch.empty(1).device.type == "cpu"
