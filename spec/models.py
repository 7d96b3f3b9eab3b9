"""The tiny random models that the system clauses are tried on."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

Made = TypeVar("Made", bound=Callable[..., Any])
_MADE: list[Any] = []


def made(make: Made) -> Made:
    """Make it once, until the package changes."""
    _MADE.append(cache(make))
    return cast("Made", _MADE[-1])


def forget() -> None:
    """The package changed: drop the models and all that was made with them."""
    for kept in _MADE:
        kept.cache_clear()


SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
SIZE |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "intermediate_size": 16}
_DEEPSEEK: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}


def spread_routers(model: nn.Module, factor: float) -> nn.Module:
    """Random routers barely tell experts apart; ``factor`` gives their scores the spread of trained ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.mul_(factor)
    return model.eval()


@made
def softmax_model() -> Any:
    """Mixtral-like: softmax over 8 experts, top-2, weights normalised over the selected."""
    torch.manual_seed(1)
    return spread_routers(MixtralForCausalLM(MixtralConfig(**SIZE, num_local_experts=8, num_experts_per_tok=2)), 10)


@made
def sigmoid_model() -> Any:
    """DeepSeek-V3-like: sigmoid scores with a correction bias, 16 experts in 4 groups of which 2 are allowed, top-4."""
    torch.manual_seed(2)
    config = DeepseekV3Config(**SIZE, **_DEEPSEEK, n_group=4, topk_group=2)
    model = spread_routers(DeepseekV3ForCausalLM(config), 10)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.linspace(-0.1, 0.1, len(buffer)))
    return model


@made
def scaled_model() -> Any:
    """DeepSeek-V2-like: softmax over 16 experts, top-4, weights not normalised but scaled."""
    torch.manual_seed(5)
    config = DeepseekV2Config(**SIZE, **_DEEPSEEK, topk_method="greedy", routed_scaling_factor=1.5)
    return spread_routers(DeepseekV2ForCausalLM(config), 10)


@made
def capacity_model() -> Any:
    """Switch-like: an encoder and a decoder, 8 experts of which one runs, for no more than two tokens a sequence."""
    return _switch(6)


@made
def encoder_model() -> Any:
    """The same, without routers in the decoder."""
    return _switch(12, decoder=False)


def _switch(seed: int, *, decoder: bool = True) -> Any:
    torch.manual_seed(seed)
    make: Any = SwitchTransformersConfig
    config = make(
        vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_heads=4, num_layers=2, num_sparse_encoder_layers=1,
        num_decoder_layers=2, num_sparse_decoder_layers=1, num_experts=8, expert_capacity=2, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    if not decoder:
        config.decoder_sparse_step = 0
    model: Any = SwitchTransformersForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("router.classifier.weight"):
                parameter.mul_(10)
    return model.eval()


def _attentive(model: nn.Module) -> nn.Module:
    """Random queries and keys are too short for tokens to attend to places; these are long enough."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(30)
    return spread_routers(model, 10)


def growing_model() -> Any:
    """Mixtral-like, with rotary embeddings that every token past the twelfth scales further (dynamic NTK). It is new
    each time, for it notes how much it has seen; so are the next two."""
    return copy.deepcopy(_growing())


@made
def _growing() -> Any:
    torch.manual_seed(7)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    size = SIZE | {"max_position_embeddings": 12, "head_dim": 16, "rope_parameters": rope}
    return _attentive(MixtralForCausalLM(MixtralConfig(**size, num_local_experts=8, num_experts_per_tok=2)))


def single_model() -> Any:
    """The growing model, with one layer, and so with a single router."""
    config = MixtralConfig(**{**growing_model().config.to_dict(), "num_hidden_layers": 1})
    model = MixtralForCausalLM(config).eval()
    model.load_state_dict(growing_model().state_dict(), strict=False)
    return model


def stretched_model() -> Any:
    """Mixtral-like, with rotary embeddings of other frequencies for all sequences of more than 12 tokens (longrope)."""
    return copy.deepcopy(_stretched())


@made
def _stretched() -> Any:
    torch.manual_seed(8)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 12}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [1.0 + 2 * place for place in range(8)]}
    size = SIZE | {"head_dim": 16, "rope_parameters": rope}
    return _attentive(MixtralForCausalLM(MixtralConfig(**size, num_local_experts=8, num_experts_per_tok=2)))


@made
def unscaled_model() -> Any:
    """The growing model, with rotary embeddings that nothing scales."""
    size = SIZE | {"max_position_embeddings": 12, "head_dim": 16}
    model = MixtralForCausalLM(MixtralConfig(**size, num_local_experts=8, num_experts_per_tok=2)).eval()
    model.load_state_dict(growing_model().state_dict())
    return model


@made
def softmax_families() -> list[Any]:
    """Qwen-like: softmax over 8 experts, top-2, weights normalised over the selected, or as they are."""
    torch.manual_seed(9)
    size = SIZE | {"moe_intermediate_size": 16, "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2}
    return [
        spread_routers(Qwen3MoeForCausalLM(Qwen3MoeConfig(**size, norm_topk_prob=normalised)), 10)
        for normalised in (True, False)
    ]


@made
def deep_model() -> Any:
    """Mixtral-like, with eight layers of 8 experts of which four run: two rows of them are hardly equal by chance."""
    torch.manual_seed(10)
    size = SIZE | {"num_hidden_layers": 8}
    return MixtralForCausalLM(MixtralConfig(**size, num_local_experts=8, num_experts_per_tok=4)).eval()


@made
def mixed_model() -> Any:
    """Qwen-like, of whose five layers the second and the fourth have routers: 8 experts, top-2."""
    torch.manual_seed(11)
    size = SIZE | {"num_hidden_layers": 5, "moe_intermediate_size": 16, "head_dim": 16}
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**size, num_experts=8, num_experts_per_tok=2, mlp_only_layers=[0, 2, 4])
    ).eval()


def models() -> list[Any]:
    """Those with a decoder alone, whose routers give logits, weights and experts."""
    return [softmax_model(), sigmoid_model(), scaled_model()]


def every_model() -> list[Any]:
    """All of them."""
    return [*models(), capacity_model()]


def new_models() -> list[Any]:
    """All of them, made anew: nobody has attached anything to them yet."""
    kinds: tuple[Any, ...] = (softmax_model, sigmoid_model, scaled_model, capacity_model)
    return [kind.__wrapped__() for kind in kinds]


def dense_model() -> Any:
    """Without any router."""
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**SIZE)).eval()
