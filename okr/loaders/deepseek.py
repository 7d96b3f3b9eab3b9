"""Builds DeepSeek-MoE (``model_type: deepseek``) from transformers' own parts, without remote code.

The published checkpoints carry Python code for transformers 4, which later releases cannot import. The architecture is
Llama, except that the MLP of the layers from ``first_k_dense_replace`` on is a mixture of experts: softmax, top-k,
shared experts. ``DeepseekV2Moe`` computes exactly that if its top-k is greedy and it has one group. One difference
remains: the original computes the router's softmax in the model's dtype, and ``DeepseekV2Moe`` computes it in float32.
In a float32 model the two are identical.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import initialization as init
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.deepseek_v2.modeling_deepseek_v2 import (
    DeepseekV2Experts,
    DeepseekV2Moe,
    DeepseekV2TopkRouter,
)
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaModel,
    LlamaPreTrainedModel,
)
from transformers.utils.output_capturing import OutputRecorder


@strict  # without it the validate_* method of this class would not be called
class DeepseekConfig(LlamaConfig):
    """The configuration of ``deepseek-ai/deepseek-moe-16b-*``. The fields have the names that the checkpoint gives
    them."""

    model_type = "deepseek"
    attribute_map: ClassVar[dict[str, str]] = {"num_experts": "n_routed_experts"}

    n_routed_experts: int | None = 64
    n_shared_experts: int | None = 2
    num_experts_per_tok: int | None = 6
    moe_intermediate_size: int = 1408
    moe_layer_freq: int = 1
    first_k_dense_replace: int = 1
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"
    # Fields that DeepseekV2Moe needs beyond the original's: greedy top-k over one group, unscaled weights.
    topk_method: str = "greedy"
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float | int = 1.0

    def validate_architecture(self) -> None:
        """Raise ValueError for a configuration that this port would compute otherwise than the original does."""
        super().validate_architecture()
        if self.scoring_func != "softmax":
            raise ValueError(f"scoring_func must be 'softmax', got {self.scoring_func!r}")
        if self.norm_topk_prob and self.num_experts_per_tok != 1:
            raise ValueError("norm_topk_prob=True is not supported: DeepSeek-MoE-16B does not normalise its weights")
        if self.n_routed_experts is not None and not 1 <= (self.num_experts_per_tok or 0) <= self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) must lie between 1 and "
                f"n_routed_experts ({self.n_routed_experts})"
            )

    def is_routed(self, layer: int) -> bool:
        """Whether transformer layer ``layer`` has routed experts. The rule is that of the original implementation."""
        return (
            self.n_routed_experts is not None
            and layer >= self.first_k_dense_replace
            and layer % self.moe_layer_freq == 0
        )


class DeepseekPreTrainedModel(LlamaPreTrainedModel):
    """The base of both classes of the port: it initialises experts and says which outputs can be recorded."""

    config_class = DeepseekConfig
    _can_record_outputs = {  # noqa: RUF012 - declared as an instance variable by the base class
        "hidden_states": LlamaDecoderLayer,
        "attentions": LlamaAttention,
        "router_logits": OutputRecorder(DeepseekV2TopkRouter, index=0),
    }

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers looks for a decorator in this file, but it is where DeepseekV2Experts is

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, DeepseekV2TopkRouter):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, DeepseekV2Experts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)


class DeepseekModel(DeepseekPreTrainedModel, LlamaModel):
    """The decoder: Llama's layers, in which shared and routed experts replace the MLP of every routed layer."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            if config.is_routed(index):
                layer.mlp = DeepseekV2Moe(config)  # type: ignore[arg-type]  # it has every field that is read
        self.post_init()


class DeepseekForCausalLM(DeepseekPreTrainedModel, LlamaForCausalLM):
    """DeepSeek-MoE as a causal language model. It loads the original checkpoints, which have one matrix for each
    expert."""

    def __init__(self, config: DeepseekConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = DeepseekModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def register() -> None:
    """Register the model type ``deepseek`` with transformers' Auto classes and checkpoint conversion. It may be called
    again."""
    AutoConfig.register("deepseek", DeepseekConfig, exist_ok=True)
    AutoModelForCausalLM.register(DeepseekConfig, DeepseekForCausalLM, exist_ok=True)
    # The matrices of single experts are merged into stacked parameters by the same rule as for Qwen2-MoE.
    mapping = get_checkpoint_conversion_mapping("qwen2_moe")
    register_checkpoint_conversion_mapping("deepseek", mapping, overwrite=True)
