"""Random models of both structures, small enough for any test."""

from typing import Any

from torch import nn


def random_deepseek(**changes: Any) -> nn.Module:
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


def random_switch(**changes: Any) -> nn.Module:
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
