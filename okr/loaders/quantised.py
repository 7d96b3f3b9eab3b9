"""Loads quantised models. It has a DeepSeek-MoE whose experts bitsandbytes can quantise.

bitsandbytes replaces only ``nn.Linear``. transformers stacks the experts of a layer into one parameter, so the experts,
which are most of the model, would stay unquantised without notice. Here every expert of DeepSeek-MoE is three
``nn.Linear``, as in the published checkpoint. The router's class is the same, so keyed routing works alike.
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
    """The routed experts of one layer, one MLP each. It replaces ``DeepseekV2Experts``."""

    def __init__(self, config: DeepseekConfig) -> None:
        width = config.moe_intermediate_size
        expert = partial(DeepseekV2MLP, config, intermediate_size=width)  # type: ignore[arg-type]
        super().__init__(expert() for _ in range(config.num_experts))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum [T, d] of the outputs of the experts ``top_k_index`` [T, k], which get ``hidden_states``
        [T, d] and have the weights ``top_k_weights`` [T, k]."""
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
    """DeepSeek-MoE in which every expert matrix is an ``nn.Linear``. It is slower than the stacked one, but it can be
    quantised."""

    _okr_name = DeepseekForCausalLM.__name__  # a trace's header names both classes alike

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.model = DeepseekLinearModel(config)
        self.post_init()


def register_linear() -> None:
    """Tell transformers that these classes have the layout of the checkpoint, so nothing is converted. It may be called
    again."""
    for name in (DeepseekLinearModel.__name__, DeepseekLinearForCausalLM.__name__):
        register_checkpoint_conversion_mapping(name, [], overwrite=True)


def as_stored(quantization: BitsAndBytesConfig, config: PreTrainedConfig) -> BitsAndBytesConfig:
    """``quantization`` with a storage dtype for 4-bit weights that the model's class takes to be quantised.

    The experts of Switch cast their input to the dtype of their weights, unless that is int8. With the usual storage,
    uint8, the cast would round the input to whole numbers.
    """
    if not config.is_encoder_decoder:
        return quantization
    stored = copy(quantization)
    stored.bnb_4bit_quant_storage = torch.int8
    return stored


def fit_to_host(model: PreTrainedModel) -> None:
    """Make 4-bit layers on the CPU compute in the model's dtype on every host.

    On a CPU with AVX-512-BF16, bitsandbytes would pack the weights at the first call, for a kernel that computes in
    bfloat16. That kernel fails for a layer whose width is no multiple of the block, and packing changes the storage
    (:func:`as_stored`).
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantised_share(model: PreTrainedModel) -> float:
    """The share of the model's weights that bitsandbytes holds in 8 or 4 bits, from 0 to 1."""
    small = full = 0
    for module in model.modules():
        if type(module).__name__ in ("Linear8bitLt", "Linear4bit"):
            small += int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
        else:
            full += sum(p.numel() for p in module.parameters(recurse=False))
    return small / max(small + full, 1)
