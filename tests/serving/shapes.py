"""Small models of the families that vLLM serves, with random weights under which experts differ much."""

from pathlib import Path
from typing import Any

import torch
import transformers

from okr.loaders.deepseek import DeepseekConfig, register

_COMMON = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 32}
_FULL = {**_COMMON, "num_key_value_heads": 4}
_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32}
_ROUTED = {
    "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}  # fmt: skip
_LATENT = {
    **_FULL, **_ROUTED, "q_lora_rank": None, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32,
    "v_head_dim": 32, "n_group": 4, "topk_group": 2,
}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("MixtralConfig", _GROUPED | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}),
    "Qwen2-MoE": ("Qwen2MoeConfig", _GROUPED | _EXPERTS | {"shared_expert_intermediate_size": 64}),
    "Qwen3-MoE": ("Qwen3MoeConfig", _GROUPED | _EXPERTS | {"norm_topk_prob": True}),
    "OLMoE": ("OlmoeConfig", _GROUPED | {"num_experts": 16, "num_experts_per_tok": 4}),
    "DeepSeek-MoE": ("", _FULL | _ROUTED),
    "GLM-4-MoE": ("Glm4MoeConfig", _GROUPED | _ROUTED | {"norm_topk_prob": True, "routed_scaling_factor": 1.5}),
    "gpt-oss": (
        "GptOssConfig",
        _GROUPED
        | {
            "num_local_experts": 16,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "layer_types": ["full_attention"] * 3,
        },
    ),
    "DeepSeek-V2": (
        "DeepseekV2Config",
        _LATENT | {"topk_method": "group_limited_greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0},
    ),
    "DeepSeek-V3": (
        "DeepseekV3Config",
        _LATENT
        | {
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    ),
}
"""The configuration class of transformers and its values by the name of the family; "" is this package's own."""


def write(family: str, folder: Path) -> Any:
    """The model of a family, written into ``folder`` too."""
    register()
    kind, values = CONFIGS[family]
    config = (getattr(transformers, kind) if kind else DeepseekConfig)(**values)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                gain = 2.0 if name.endswith(("gate.weight", "router.weight")) else 1.2
                weight.copy_(torch.randn_like(weight) * gain * weight.shape[-1] ** -0.5)
        for name, bias in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.copy_(0.1 * torch.randn_like(bias))
    model.save_pretrained(folder)
    return model
