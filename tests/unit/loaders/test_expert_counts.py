"""What is read from a configuration: expert counts, declared counts that differ, generation arguments."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import (
    GenerationConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
    SwitchTransformersConfig,
)

import okr
from okr.loaders import ExpertCounts, check_declared, expert_counts, generation_defaults
from okr.loaders.deepseek import DeepseekConfig


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DeepseekConfig(), ExpertCounts(64, 6, 2)),
        (SwitchTransformersConfig(num_experts=8), ExpertCounts(8, 1, 0)),
        (MixtralConfig(num_local_experts=8, num_experts_per_tok=2), ExpertCounts(8, 2, 0)),
        (Qwen3MoeConfig(num_experts=128, num_experts_per_tok=8), ExpertCounts(128, 8, 0)),
        (LlamaConfig(), ExpertCounts(None, None, 0)),
    ],
    ids=lambda v: getattr(v, "model_type", None),
)
def test_expert_counts(config: PreTrainedConfig, expected: ExpertCounts) -> None:
    assert expert_counts(config) == expected


def test_the_guide_s_top_8_is_reported() -> None:
    assert check_declared(DeepseekConfig(), num_experts=64, top_k=8) == [
        "declared top-8, the model's configuration runs 6 routed + 2 shared experts per token "
        "(the declared number counts the shared ones): top-6 is used"
    ]


def test_other_differences_are_reported_one_line_each() -> None:
    config = MixtralConfig(num_local_experts=8, num_experts_per_tok=2)
    assert check_declared(config, num_experts=16, top_k=4) == [
        "declared 16 routed experts, the model's configuration has 8: 8 is used",
        "declared top-4, the model's configuration runs 2 routed experts per token: top-2 is used",
    ]


@pytest.mark.parametrize("declared", [{}, {"num_experts": 64}, {"top_k": 6}, {"num_experts": 64, "top_k": 6}])
def test_what_agrees_or_was_not_declared_is_not_reported(declared: dict[str, int]) -> None:
    assert check_declared(DeepseekConfig(), **declared) == []


def test_nothing_can_be_said_about_a_configuration_that_is_silent() -> None:
    assert check_declared(LlamaConfig(), num_experts=64, top_k=8) == []


def fake(config: PreTrainedConfig, **generation: object) -> SimpleNamespace:
    return SimpleNamespace(config=config, generation_config=GenerationConfig(**generation))


def test_generation_defaults_of_an_encoder_decoder(switch_checkpoint: Path) -> None:
    loaded = okr.load(switch_checkpoint)
    assert generation_defaults(loaded.model) == {"eos_token_id": 1, "pad_token_id": 1, "decoder_start_token_id": 0}


def test_a_missing_pad_token_is_the_end_token() -> None:
    assert generation_defaults(fake(LlamaConfig(), eos_token_id=[7, 9])) == {"eos_token_id": [7, 9], "pad_token_id": 7}
    assert generation_defaults(fake(LlamaConfig(), eos_token_id=7, pad_token_id=0))["pad_token_id"] == 0


def test_the_decoder_starts_from_bos_where_nothing_else_is_said() -> None:
    config = SwitchTransformersConfig(decoder_start_token_id=None)
    assert generation_defaults(fake(config, bos_token_id=5))["decoder_start_token_id"] == 5
    with pytest.raises(okr.ModelLoadError, match="decoder_start_token_id"):
        generation_defaults(fake(config))
