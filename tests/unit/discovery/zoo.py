"""A tiny random-weight model of every Mixture-of-Experts family of transformers, built from its configuration.

``FAMILIES`` names each family once: module, model class, what its tiny configuration needs beyond the common sizes,
and the inputs of one forward. ``build`` makes the model (cached for the test session), with every router weight
random: some families leave them at zero, and then every expert ties.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

OLDER = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)
"""Whether this transformers precedes the one that the pinned results and the documents are of."""
EXPERTS, TOP_K, HIDDEN, VOCABULARY = 8, 3, 32, 128

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "d_model": HIDDEN,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "moe_num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "moe_topk": TOP_K,
    "moe_k": TOP_K,
    "top_k_experts": TOP_K,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_topk": 4,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "sliding_window": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "n_shared_experts": 1,
    "use_cache": False,
    "kv_channels": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_layers": 3,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_mtp_layers": 0,
    "num_nextn_predict_layers": 0,
    "router_jitter_noise": 0.01,
}


def _text(seed: int = 0) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(seed))}


def _source_and_text(seed: int = 0) -> dict[str, Tensor]:
    text = _text(seed)
    return text | {"decoder_input_ids": text["input_ids"].flip(0)}


def _text_and_images(seed: int = 0) -> dict[str, Tensor]:
    kinds = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]], dtype=torch.int32)
    return _text(seed) | {"moe_mm_token_type_ids": kinds}


def _embeddings(seed: int = 0) -> dict[str, Tensor]:
    return {"inputs_embeds": torch.randn(2, 6, HIDDEN, generator=torch.Generator().manual_seed(seed))}


def _picture(seed: int = 0) -> dict[str, Tensor]:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return {"pixel_values": pixels, "dataset_index": torch.tensor([0, 2])}


def _patches(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(16, 3 * 14 * 14, generator=generator), "grid_thw": torch.tensor([[1, 4, 4]])}


@dataclass(frozen=True)
class FamilyModel:
    """How to build one family's tiny model. ``config`` overrides the common sizes; None leaves a default."""

    name: str
    model_class: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[..., dict[str, Any]] = _text

    @property
    def module(self) -> str:
        family = self.name.partition(":")[0]
        return f"transformers.models.{family}.modeling_{family}"

    @property
    def installed(self) -> bool:
        """Whether the installed transformers has the family."""
        return (Path(transformers.__file__).parent / "models" / self.name.partition(":")[0]).is_dir()


def model_class(family: FamilyModel) -> Any:
    """The class of the family's model; where the family is not installed, the test that asks is skipped."""
    if not family.installed:
        pytest.skip(f"transformers {transformers.__version__} does not have the family {family.name}")
    return getattr(import_module(family.module), family.model_class)


def config_of(family: FamilyModel) -> Any:
    """The tiny configuration: the common sizes where the family has such a field, then the family's own."""
    config_class = model_class(family).config_class
    known = {f.name for f in fields(config_class)}
    values = {name: value for name, value in _COMMON.items() if name in known}
    values |= family.config
    config = config_class(**{name: value for name, value in values.items() if value is not None})
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config


FAMILIES = {
    family.name: family
    for family in (
        FamilyModel("afmoe", "AfmoeForCausalLM"),
        FamilyModel("aria", "AriaTextForCausalLM"),
        FamilyModel("axk1", "AXK1ForCausalLM"),
        FamilyModel("axk2", "AXK2ForCausalLM"),
        FamilyModel("bailing_hybrid", "BailingHybridForCausalLM"),
        FamilyModel("beam", "BeamForCausalLM", {"mlp_layer_types": ["dense", "sparse", "sparse"]}),
        FamilyModel("cohere2_moe", "Cohere2MoeForCausalLM"),
        FamilyModel(
            "dbrx",
            "DbrxForCausalLM",
            {
                "n_heads": 4,
                "n_layers": 3,
                "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
                "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": EXPERTS, "moe_top_k": TOP_K},
            },
        ),
        FamilyModel(
            "deepseek_ocr2",
            "DeepseekOcr2TextModel",
            {"mlp_layer_types": ["dense", "sparse", "sparse"]},
        ),
        FamilyModel("deepseek_v2", "DeepseekV2ForCausalLM"),
        FamilyModel("deepseek_v3", "DeepseekV3ForCausalLM"),
        FamilyModel("deepseek_v32", "DeepseekV32ForCausalLM"),
        FamilyModel("deepseek_v4", "DeepseekV4ForCausalLM", {"mlp_layer_types": ["hash_moe", "moe", "moe"]}),
        FamilyModel("diffusion_gemma", "DiffusionGemmaEncoderTextModel"),
        FamilyModel(
            "doge",
            "DogeForCausalLM",
            {"is_moe": True, "num_experts": 16},
        ),
        FamilyModel("dots1", "Dots1ForCausalLM"),
        FamilyModel("dots3_note", "Dots3NoteForCausalLM"),
        FamilyModel(
            "dots3_note:vision",
            "Dots3NoteVisionModel",
            {
                "adapter_in_dim": HIDDEN,
                "adapter_out_dim": HIDDEN,
                "per_layer_config": {},
                "mlp_layer_types": ["dense", "sparse", "sparse"],
            },
            _patches,
        ),
        FamilyModel("ernie4_5_moe", "Ernie4_5_MoeForCausalLM"),
        FamilyModel(
            "ernie4_5_vl_moe",
            "Ernie4_5_VLMoeTextModel",
            {
                "moe_intermediate_size": [16, 16],
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            },
            _text_and_images,
        ),
        FamilyModel("exaone_moe", "ExaoneMoeForCausalLM"),
        FamilyModel("flex_olmo", "FlexOlmoForCausalLM"),
        FamilyModel("flint", "FlintForCausalLM"),
        FamilyModel(
            "gemma4",
            "Gemma4ForCausalLM",
            {"enable_moe_block": True},
        ),
        FamilyModel("glm4_moe", "Glm4MoeForCausalLM"),
        FamilyModel("glm4_moe_lite", "Glm4MoeLiteForCausalLM"),
        FamilyModel(
            "glm4v_moe",
            "Glm4vMoeTextModel",
            {
                "head_dim": 16,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            },
        ),
        FamilyModel(
            "glm5_next",
            "Glm5NextTextModel",
            {
                "index_kpool": 2,
                "qk_rope_head_dim": 0,
                "head_dim": 0,
                "mlp_layer_types": ["dense", "sparse", "sparse"],
            },
        ),
        FamilyModel("glm_moe_dsa", "GlmMoeDsaForCausalLM"),
        FamilyModel("gpt_oss", "GptOssForCausalLM"),
        FamilyModel("granitemoe", "GraniteMoeForCausalLM"),
        FamilyModel("granitemoe_swa", "GraniteMoeSWAForCausalLM"),
        FamilyModel(
            "granitemoehybrid",
            "GraniteMoeHybridForCausalLM",
            {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8},
        ),
        FamilyModel("granitemoeshared", "GraniteMoeSharedForCausalLM"),
        FamilyModel("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM"),
        FamilyModel("hy_v3", "HYV3ForCausalLM"),
        FamilyModel("hy_v4", "HYV4ForCausalLM"),
        FamilyModel("inkling", "InklingForCausalLM"),
        FamilyModel("inkling2", "Inkling2ForCausalLM"),
        FamilyModel("jamba", "JambaForCausalLM"),
        FamilyModel("jetmoe", "JetMoeForCausalLM"),
        FamilyModel("kimi_linear", "KimiLinearForCausalLM"),
        FamilyModel("kolibri1", "Kolibri1ForCausalLM"),
        FamilyModel("laguna", "LagunaForCausalLM"),
        FamilyModel(
            "lfm2_moe",
            "Lfm2MoeForCausalLM",
            {"layer_types": ["conv", "full_attention", "full_attention"]},
        ),
        FamilyModel("llama4", "Llama4ForCausalLM"),
        FamilyModel("longcat_flash", "LongcatFlashForCausalLM", {"zero_expert_num": 4}),
        FamilyModel("mellum", "MellumForCausalLM"),
        FamilyModel("mimo_v2_flash", "MiMoV2FlashForCausalLM", {"num_key_value_heads": 2}),
        FamilyModel("minimax", "MiniMaxForCausalLM"),
        FamilyModel("minimax_m2", "MiniMaxM2ForCausalLM"),
        FamilyModel("minimax_m3_vl", "MiniMaxM3VLForCausalLM"),
        FamilyModel("mistral4", "Mistral4ForCausalLM"),
        FamilyModel("mistral_large4", "MistralLarge4TextModel"),
        FamilyModel("mixtral", "MixtralForCausalLM"),
        FamilyModel("muse_spark", "MuseSparkTextModel"),
        FamilyModel("nemotron_h", "NemotronHForCausalLM"),
        FamilyModel(
            "nllb_moe",
            "NllbMoeForConditionalGeneration",
            {
                "encoder_layers": 4,
                "decoder_layers": 4,
                "encoder_ffn_dim": 48,
                "decoder_ffn_dim": 48,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_sparse_step": 2,
                "decoder_sparse_step": 2,
            },
            _source_and_text,
        ),
        FamilyModel("olmoe", "OlmoeForCausalLM"),
        FamilyModel("openai_privacy_filter", "OpenAIPrivacyFilterForTokenClassification"),
        FamilyModel("phimoe", "PhimoeForCausalLM"),
        FamilyModel("qwen2_moe", "Qwen2MoeForCausalLM"),
        FamilyModel("qwen3_5_moe", "Qwen3_5MoeForCausalLM"),
        FamilyModel("qwen3_moe", "Qwen3MoeForCausalLM"),
        FamilyModel("qwen3_next", "Qwen3NextForCausalLM"),
        FamilyModel("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
        FamilyModel(
            "qwen3_omni_moe:talker",
            "Qwen3OmniMoeTalkerModel",
            {"shared_expert_intermediate_size": 16},
            _embeddings,
        ),
        FamilyModel("qwen3_vl_moe", "Qwen3VLMoeTextModel"),
        FamilyModel("qwen4_exp", "Qwen4ExpForCausalLM"),
        FamilyModel("solar_open", "SolarOpenForCausalLM"),
        FamilyModel("step3p7", "Step3p7TextModel", {"mlp_layer_types": ["dense", "sparse", "sparse"]}),
        FamilyModel(
            "switch_transformers",
            "SwitchTransformersForConditionalGeneration",
            {
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 4,
                "num_decoder_layers": 4,
                "num_sparse_encoder_layers": 2,
                "num_sparse_decoder_layers": 2,
                "num_heads": 4,
                "initializer_factor": 2.0,
            },
            _source_and_text,
        ),
        FamilyModel("unlimited_ocr", "UnlimitedOcrTextModel"),
        FamilyModel(
            "vitpose_backbone",
            "VitPoseBackbone",
            {"image_size": [32, 32], "part_features": 8, "num_experts": 4},
            _picture,
        ),
        FamilyModel(
            "zaya",
            "ZayaForCausalLM",
            {"num_experts_per_tok": 1},
        ),
    )
}

VARIANTS = {
    family.name: family
    for family in (
        FamilyModel("deepseek_v2:groups", "DeepseekV2ForCausalLM", {"topk_method": "group_limited_greedy"}),
        FamilyModel(
            "deepseek_v3:one_group",
            "DeepseekV3ForCausalLM",
            {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
        ),
        FamilyModel("cohere2_moe:sigmoid", "Cohere2MoeForCausalLM", {"expert_selection_fn": "sigmoid"}),
        FamilyModel("lfm2_moe:no_bias", "Lfm2MoeForCausalLM", FAMILIES["lfm2_moe"].config | {"use_expert_bias": False}),
        FamilyModel("qwen3_moe:norm", "Qwen3MoeForCausalLM", {"norm_topk_prob": True}),
        FamilyModel("mixtral:all", "MixtralForCausalLM", {"num_experts_per_tok": EXPERTS - 1}),
    )
}
"""Settings of families under which their routers take another way."""


@cache
def build(name: str) -> nn.Module:
    """The family's tiny model in eval mode. Shared within a session: leave it as it was."""
    return make(name)


def make(name: str) -> nn.Module:
    """A fresh tiny model of the family, with seeded random weights."""
    family = FAMILIES.get(name) or VARIANTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(family)(config_of(family)).eval()
        _randomise(model)
    return model


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Random values wherever initialisation left zeros or raw memory: experts would tie, or compute nothing."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("tid2eid"):  # token id -> k distinct experts
            value.copy_(torch.rand(len(value), EXPERTS).argsort(-1)[:, : value.shape[1]])
        elif "experts." in name and value.is_floating_point() and value.dim() > 1:
            nn.init.normal_(value, std=0.1)
        elif value.is_floating_point() and not value.any():
            if any(word in name for word in ("moe_statics", "correction_bias", "expert_bias")):
                nn.init.normal_(value, std=0.05)
            elif value.dim() > 1:
                nn.init.normal_(value, std=0.5 if "gate." in name or "router" in name else 0.1)


@torch.no_grad()
def run(model: nn.Module, name: str, seed: int = 0) -> Tensor:
    """One forward of the family's inputs: its last hidden state or logits."""
    output = model(**(FAMILIES.get(name) or VARIANTS[name]).inputs(seed))
    for attribute in ("logits", "last_hidden_state", "feature_maps"):
        value = getattr(output, attribute, None)
        if value is not None:
            return value if isinstance(value, Tensor) else value[-1]
    return output[0]
