"""Quantised loading: which parts bitsandbytes can reach, and a DeepSeek-MoE whose experts are among them.

transformers stacks a layer's experts into one parameter, and bitsandbytes replaces ``nn.Linear`` only, so experts, the
bulk of the model, would silently stay at full size. For the DeepSeek-MoE port each expert is therefore kept as its own
three ``nn.Linear``, as in the published checkpoint. The router is the same class, so keyed routing does not notice.
"""

from copy import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2MLP, DeepseekV2Moe

from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM, DeepseekModel


class LinearExperts(nn.ModuleList):
    """The routed experts of one layer, one MLP each; takes the place of ``DeepseekV2Experts``."""

    def __init__(self, config: DeepseekConfig) -> None:
        width = config.moe_intermediate_size
        expert = partial(DeepseekV2MLP, config, intermediate_size=width)  # type: ignore[arg-type]
        super().__init__(expert() for _ in range(config.num_experts))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Hidden states [T, d], chosen experts [T, k] and their weights [T, k] to the weighted sum [T, d]."""
        out = torch.zeros_like(hidden_states)
        ran = one_hot(top_k_index, len(self)).sum((0, 1)).nonzero().flatten()
        for expert in ran.tolist():
            token, slot = torch.where(top_k_index == expert)
            part = self[expert](hidden_states[token]) * top_k_weights[token, slot, None]
            out.index_add_(0, token, part.to(out.dtype))
        return out


class DeepseekLinearModel(DeepseekModel):
    """The decoder with :class:`LinearExperts`."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            if isinstance(layer.mlp, DeepseekV2Moe):
                layer.mlp.experts = LinearExperts(config)  # type: ignore[assignment]
        self.post_init()


class DeepseekLinearForCausalLM(DeepseekForCausalLM):
    """DeepSeek-MoE with every expert matrix an ``nn.Linear`` of its own: slower, but it can be quantised."""

    _okr_name = DeepseekForCausalLM.__name__  # one model, in a trace's header

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.model = DeepseekLinearModel(config)
        self.post_init()


def register_linear() -> None:
    """Tell transformers that these classes hold the checkpoint's layout as it is (idempotent)."""
    for name in (DeepseekLinearModel.__name__, DeepseekLinearForCausalLM.__name__):
        register_checkpoint_conversion_mapping(name, [], overwrite=True)


def as_stored(quantization: BitsAndBytesConfig, config: PreTrainedConfig) -> BitsAndBytesConfig:
    """The quantisation with its 4-bit weights stored as what the model's class takes for quantised.

    The experts of Switch cast their states to the dtype of their weights unless that is int8; the usual storage, uint8,
    would round the states away.
    """
    if not config.is_encoder_decoder:
        return quantization
    stored = copy(quantization)
    stored.bnb_4bit_quant_storage = torch.int8
    return stored


def fit_to_host(model: PreTrainedModel) -> None:
    """Let 4-bit layers on the CPU compute in the model's dtype on every host.

    With AVX-512-BF16 bitsandbytes would pack the weights at the first call for a kernel that computes in bfloat16,
    fails for a layer whose width is no multiple of the block, and changes the storage (see :func:`as_stored`).
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantised_share(model: PreTrainedModel) -> float:
    """The share of the model's weights, between 0 and 1, that bitsandbytes holds in 8 or 4 bits."""
    small = full = 0
    for module in model.modules():
        if type(module).__name__ in ("Linear8bitLt", "Linear4bit"):
            small += int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
        else:
            full += sum(p.numel() for p in module.parameters(recurse=False))
    return small / max(small + full, 1)
