"""Where the routers of every family are: router module pattern and class, read from the families' source."""

from importlib import import_module

from tests.unit.discovery.zoo import FAMILIES

SITES: dict[str, tuple[tuple[str, str], ...]] = {
    "afmoe": (("model.layers.{i}.mlp.router", "AfmoeTokenChoiceRouter"),),
    "aria": (("model.layers.{i}.mlp.router", "AriaTextTopKRouter"),),
    "axk1": (("model.layers.{i}.mlp.gate", "AXK1TopkRouter"),),
    "axk2": (("model.layers.{i}.mlp.gate", "AXK2TopkRouter"),),
    "bailing_hybrid": (("model.layers.{i}.mlp.gate", "BailingHybridTopkRouter"),),
    "beam": (("model.layers.{i}.mlp.gate", "BeamTopKRouter"),),
    "cohere2_moe": (("model.layers.{i}.mlp.gate", "Cohere2MoeTopKRouter"),),
    "dbrx": (("transformer.blocks.{i}.ffn", "DbrxFFN"),),
    "deepseek_ocr2": (("layers.{i}.mlp.gate", "DeepseekOcr2TextTopkRouter"),),
    "deepseek_v2": (("model.layers.{i}.mlp.gate", "DeepseekV2TopkRouter"),),
    "deepseek_v3": (("model.layers.{i}.mlp.gate", "DeepseekV3TopkRouter"),),
    "deepseek_v32": (("model.layers.{i}.mlp.gate", "DeepseekV32TopkRouter"),),
    "deepseek_v4": (
        ("model.layers.{i}.mlp.gate", "DeepseekV4HashRouter"),
        ("model.layers.{i}.mlp.gate", "DeepseekV4TopKRouter"),
    ),
    "diffusion_gemma": (("layers.{i}.router", "DiffusionGemmaTextRouter"),),
    "doge": (("model.layers.{i}.mlp", "DogeCDMoE"),),
    "dots1": (("model.layers.{i}.mlp.gate", "Dots1TopkRouter"),),
    "dots3_note": (("model.layers.{i}.mlp.gate", "Dots3NoteTextTopkRouter"),),
    "dots3_note:vision": (("blocks.{i}.mlp.gate", "Dots3NoteVisionTopKRouter"),),
    "ernie4_5_moe": (("model.layers.{i}.mlp.gate", "Ernie4_5_MoeTopKRouter"),),
    "ernie4_5_vl_moe": (
        ("layers.{i}.mlp.text_moe.gate", "Ernie4_5_VLMoeMoeTopKRouter"),
        ("layers.{i}.mlp.vision_moe.gate", "Ernie4_5_VLMoeMoeTopKRouter"),
    ),
    "exaone_moe": (("model.layers.{i}.mlp.gate", "ExaoneMoeTopkRouter"),),
    "flex_olmo": (("model.layers.{i}.mlp.gate", "FlexOlmoTopKRouter"),),
    "flint": (("model.layers.{i}.mlp.gate", "FlintTopKRouter"),),
    "gemma4": (("model.layers.{i}.router", "Gemma4TextRouter"),),
    "glm4_moe": (("model.layers.{i}.mlp.gate", "Glm4MoeTopkRouter"),),
    "glm4_moe_lite": (("model.layers.{i}.mlp.gate", "Glm4MoeLiteTopkRouter"),),
    "glm4v_moe": (("layers.{i}.mlp.gate", "Glm4vMoeTextTopkRouter"),),
    "glm5_next": (("layers.{i}.mlp.gate", "Glm5NextTextTopkRouter"),),
    "glm_moe_dsa": (("model.layers.{i}.mlp.gate", "GlmMoeDsaTopkRouter"),),
    "gpt_oss": (("model.layers.{i}.mlp.router", "GptOssTopKRouter"),),
    "granitemoe": (("model.layers.{i}.block_sparse_moe.router", "GraniteMoeTopKRouter"),),
    "granitemoe_swa": (("model.layers.{i}.block_sparse_moe.router", "GraniteMoeSWATopKRouter"),),
    "granitemoehybrid": (("model.layers.{i}.block_sparse_moe.router", "GraniteMoeHybridTopKRouter"),),
    "granitemoeshared": (("model.layers.{i}.block_sparse_moe.router", "GraniteMoeSharedTopKRouter"),),
    "hunyuan_v1_moe": (("model.layers.{i}.mlp.gate", "HunYuanMoEV1Gate"),),
    "hy_v3": (("model.layers.{i}.mlp.gate", "HYV3TopKRouter"),),
    "hy_v4": (("model.layers.{i}.mlp.gate", "HYV4TopkRouter"),),
    "inkling": (("model.layers.{i}.mlp.gate", "InklingTopkRouter"),),
    "inkling2": (("model.layers.{i}.mlp.gate", "Inkling2TopKRouter"),),
    "jamba": (("model.layers.{i}.feed_forward.router", "JambaTopKRouter"),),
    "jetmoe": (
        ("model.layers.{i}.mlp.router", "JetMoeTopKGating"),
        ("model.layers.{i}.self_attention.experts.router", "JetMoeTopKGating"),
    ),
    "kimi_linear": (("model.layers.{i}.mlp.gate", "KimiLinearTopkRouter"),),
    "kolibri1": (("model.layers.{i}.mlp.gate", "Kolibri1TopKRouter"),),
    "laguna": (("model.layers.{i}.mlp.gate", "LagunaTopKRouter"),),
    "lfm2_moe": (("model.layers.{i}.feed_forward.gate", "Lfm2MoeTopKRouter"),),
    "llama4": (("model.layers.{i}.feed_forward.router", "Llama4Router"),),
    "longcat_flash": (("model.layers.{i}.mlp.router", "LongcatFlashTopkRouter"),),
    "mellum": (("model.layers.{i}.mlp.gate", "MellumTopKRouter"),),
    "mimo_v2_flash": (("model.layers.{i}.mlp.gate", "MiMoV2FlashTopkRouter"),),
    "minimax": (("model.layers.{i}.mlp.gate", "MiniMaxTopKRouter"),),
    "minimax_m2": (("model.layers.{i}.mlp.gate", "MiniMaxM2TopKRouter"),),
    "minimax_m3_vl": (("model.layers.{i}.mlp.gate", "MiniMaxM3VLTopKRouter"),),
    "mistral4": (("model.layers.{i}.mlp.gate", "Mistral4TopkRouter"),),
    "mistral_large4": (("layers.{i}.mlp.gate", "MistralLarge4TextTopkRouter"),),
    "mixtral": (("model.layers.{i}.mlp.gate", "MixtralTopKRouter"),),
    "muse_spark": (("layers.{i}.mlp.gate", "MuseSparkTopkRouter"),),
    "nemotron_h": (("model.layers.{i}.mixer.gate", "NemotronHTopkRouter"),),
    "nllb_moe": (
        ("model.encoder.layers.{i}.ffn.router", "NllbMoeTop2Router"),
        ("model.decoder.layers.{i}.ffn.router", "NllbMoeTop2Router"),
    ),
    "olmoe": (("model.layers.{i}.mlp.gate", "OlmoeTopKRouter"),),
    "openai_privacy_filter": (("model.layers.{i}.mlp.router", "OpenAIPrivacyFilterTopKRouter"),),
    "phimoe": (("model.layers.{i}.mlp.router", "PhimoeTopKRouter"),),
    "qwen2_moe": (("model.layers.{i}.mlp.gate", "Qwen2MoeTopKRouter"),),
    "qwen3_5_moe": (("model.layers.{i}.mlp.gate", "Qwen3_5MoeTopKRouter"),),
    "qwen3_moe": (("model.layers.{i}.mlp.gate", "Qwen3MoeTopKRouter"),),
    "qwen3_next": (("model.layers.{i}.mlp.gate", "Qwen3NextTopKRouter"),),
    "qwen3_omni_moe": (("layers.{i}.mlp.gate", "Qwen3OmniMoeThinkerTextTopKRouter"),),
    "qwen3_omni_moe:talker": (("layers.{i}.mlp.gate", "Qwen3OmniMoeTalkerTextTopKRouter"),),
    "qwen3_vl_moe": (("layers.{i}.mlp.gate", "Qwen3VLMoeTextTopKRouter"),),
    "qwen4_exp": (("model.layers.{i}.mlp.gate", "Qwen4ExpTextTopKRouter"),),
    "solar_open": (("model.layers.{i}.mlp.gate", "SolarOpenTopkRouter"),),
    "step3p7": (("layers.{i}.mlp.gate", "Step3p7TopKRouter"),),
    "switch_transformers": (
        ("encoder.block.{i}.layer.{i}.mlp.router", "SwitchTransformersTop1Router"),
        ("decoder.block.{i}.layer.{i}.mlp.router", "SwitchTransformersTop1Router"),
    ),
    "unlimited_ocr": (("layers.{i}.mlp.gate", "UnlimitedOcrTextTopkRouter"),),
    "vitpose_backbone": (("encoder.layer.{i}.mlp", "VitPoseBackboneMoeMLP"),),
    "zaya": (("model.layers.{i}.mlp.gate", "ZayaRouter"),),
}

BLOCKS = {
    "aria": (("model.layers.{i}.mlp", "AriaTextMoELayer"),),
    "jamba": (("model.layers.{i}.feed_forward", "JambaSparseMoeBlock"),),
}
"""Where the block ranks instead, in releases that have no class of routers for the family."""


def sites_of(name: str) -> set[tuple[str, str]]:
    """Where the routers of a family are in the installed release."""
    places = SITES[name]
    has_routers = all(hasattr(import_module(FAMILIES[name].module), router) for _, router in places)
    return set(places if has_routers else BLOCKS[name])


NOT_KEYABLE = {
    "NllbMoeTop2Router",
    "DeepseekV4HashRouter",
    "DogeCDMoE",
    "VitPoseBackboneMoeMLP",
}
