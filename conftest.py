"""Fixtures shared by every test: small models of both structures, random and embedded; Hypothesis profiles."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from one seed, whatever ran before it."""
    import torch

    torch.manual_seed(0)


def random_deepseek(**changes):
    """A random DeepSeek-MoE: one dense and two routed layers, 16 experts, 4 active, 2 shared; lively routers."""
    import torch

    from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM, register

    register()
    shape = {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "moe_intermediate_size": 16,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    return DeepseekForCausalLM(DeepseekConfig(**shape | changes)).eval()


def random_switch(**changes):
    """A random Switch: one routed layer in the encoder, one in the decoder, 8 experts whose capacity of 2 binds."""
    import torch
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    shape = {
        "vocab_size": 256,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_heads": 4,
        "num_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_decoder_layers": 2,
        "num_sparse_decoder_layers": 1,
        "num_experts": 8,
        "expert_capacity": 2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    torch.manual_seed(0)
    return SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**shape | changes)).eval()


@pytest.fixture
def deepseek():
    return random_deepseek()


@pytest.fixture
def switch():
    return random_switch()


@pytest.fixture(params=["deepseek", "switch"])
def moe(request):
    """Either random structure: what must hold for both."""
    return random_deepseek() if request.param == "deepseek" else random_switch()


@pytest.fixture
def key():
    from okr import Key

    return Key(bytes(range(32)))


@pytest.fixture
def other_key():
    from okr import Key

    return Key(bytes(range(1, 33)))
