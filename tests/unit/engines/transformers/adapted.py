"""Models with adapters, for the tests of what a trace says of its model: each with what it computes."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    BeftConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

TOKENS = torch.arange(3, 27).view(2, 12)


def mixtral() -> nn.Module:
    """Two layers of 8 stacked experts, 2 active; the same weights at every call."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    ends = {"pad_token_id": 0, "eos_token_id": None, "initializer_range": 0.2}
    config = MixtralConfig(**sizes, **heads, **ends, num_local_experts=8, num_experts_per_tok=2)
    return MixtralForCausalLM(config).eval()


def adapted(config: Any = None, model: nn.Module | None = None, seed: int = 1, **lora: Any) -> Any:
    """``model`` under an adapter that is no identity: a LoRA, or of another ``config``."""
    config = config or LoraConfig(r=4, lora_alpha=16, **lora)
    model = get_peft_model(mixtral() if model is None else model, config).eval()
    return trained(model, seed)


@torch.no_grad()
def trained(model: nn.Module, seed: int) -> Any:
    """``model`` with every weight that would be trained moved."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        if value.requires_grad:
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return model


def two_lora(active: str | list[str]) -> Any:
    """Two adapters on other layers, ``active`` of them in force."""
    model = adapted(target_modules=["q_proj", "v_proj"])
    model.add_adapter("second", LoraConfig(r=2, lora_alpha=8, target_modules=["v_proj", "o_proj"]))
    model.base_model.set_adapter("second")
    trained(model, 2).base_model.set_adapter(active)
    return model.eval()


ATTENTION = ["q_proj", "v_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
MAKERS: dict[str, Callable[[], Any]] = {
    "base": mixtral,
    "lora": lambda: adapted(target_modules=ATTENTION),
    "inner of lora": lambda: adapted(target_modules=ATTENTION).get_base_model(),
    "lora merged": lambda: adapted(target_modules=ATTENTION).merge_and_unload(),
    "lora merged in place": lambda: _merged(adapted(target_modules=ATTENTION)),
    "lora with dropout": lambda: adapted(target_modules=ATTENTION, lora_dropout=0.3),
    "lora, another training": lambda: adapted(target_modules=ATTENTION, seed=5),
    "rank-stabilised lora": lambda: adapted(target_modules=ATTENTION, use_rslora=True),
    "lora of one layer": lambda: adapted(target_modules=ATTENTION, layers_to_transform=[1]),
    "untrained lora": lambda: get_peft_model(mixtral(), LoraConfig(target_modules=ATTENTION)).eval(),
    "first of two": lambda: two_lora("default"),
    "second of two": lambda: two_lora("second"),
    "both": lambda: two_lora(["default", "second"]),
    "both merged": lambda: two_lora(["default", "second"]).merge_and_unload(adapter_names=["default", "second"]),
    "dora": lambda: adapted(target_modules=ATTENTION, use_dora=True),
    "dora merged": lambda: adapted(target_modules=ATTENTION, use_dora=True).merge_and_unload(),
    "adalora": lambda: adapted(AdaLoraConfig(total_step=10, target_modules=ATTENTION)),
    "adalora merged": lambda: adapted(AdaLoraConfig(total_step=10, target_modules=ATTENTION)).merge_and_unload(),
    "activated lora": lambda: activated(1),
    "activated lora, another training": lambda: activated(5),
    "lora with biases": lambda: adapted(target_modules=ATTENTION, lora_bias=True),
    "lora with other biases": lambda: _other_biases(adapted(target_modules=ATTENTION, lora_bias=True)),
    "biases where there were none": lambda: adapted(BeftConfig(target_modules=["q_proj"])),
    "embedding lora": lambda: adapted(target_modules=["embed_tokens"]),
    "embedding lora merged": lambda: adapted(target_modules=["embed_tokens"]).merge_and_unload(),
    "lora of the experts": lambda: adapted(target_parameters=EXPERTS),
    "lora of the experts merged": lambda: adapted(target_parameters=EXPERTS).merge_and_unload(),
    "lora of the gate": lambda: adapted(target_parameters=["gate.weight"]),
    "lora of the gate merged": lambda: adapted(target_parameters=["gate.weight"]).merge_and_unload(),
    "gate saved": lambda: adapted(target_modules=ATTENTION, modules_to_save=["gate"]),
    "gate saved merged": lambda: adapted(target_modules=ATTENTION, modules_to_save=["gate"]).merge_and_unload(),
    "embedding saved": lambda: adapted(target_modules=ATTENTION, modules_to_save=["embed_tokens"]),
    "tokens": lambda: adapted(TrainableTokensConfig(token_indices=[*range(3, 15)], target_modules=["embed_tokens"])),
    "ia3": lambda: adapted(IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[])),
    "ia3 merged": lambda: adapted(
        IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[])
    ).merge_and_unload(),
    "loha": lambda: adapted(LoHaConfig(r=4, target_modules=ATTENTION)),
    "loha merged": lambda: adapted(LoHaConfig(r=4, target_modules=ATTENTION)).merge_and_unload(),
    "lokr": lambda: adapted(LoKrConfig(r=4, target_modules=ATTENTION)),
    "oft": lambda: adapted(OFTConfig(oft_block_size=8, target_modules=ATTENTION)),
    "vera": lambda: adapted(VeraConfig(r=4, target_modules=["q_proj"])),
    "norms": lambda: adapted(LNTuningConfig(target_modules=["input_layernorm"])),
    "norms merged": lambda: adapted(LNTuningConfig(target_modules=["input_layernorm"])).merge_and_unload(),
    "prefix": lambda: adapted(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "fine-tuned": lambda: trained(mixtral(), 7),
    "fine-tuned in one matrix": lambda: _one_matrix(),
    "compiled": lambda: torch.compile(mixtral(), backend="eager"),
}


def activated(seed: int) -> Any:
    """An adapter that acts from token 6 on, as an activated LoRA does; two rows of TOKENS have it, or none."""
    return adapted(target_modules=ATTENTION, alora_invocation_tokens=[6], task_type="CAUSAL_LM", seed=seed)


@torch.no_grad()
def _other_biases(model: Any) -> Any:
    for name, value in model.named_parameters():
        if name.endswith("lora_B.default.bias"):
            value += 0.3
    return model


def _merged(model: Any) -> Any:
    model.merge_adapter()
    return model


@torch.no_grad()
def _one_matrix() -> nn.Module:
    model: Any = mixtral()
    weight = model.model.layers[0].self_attn.k_proj.weight
    weight += 0.02 * weight.std() * torch.randn(weight.shape)
    return model


def switched(name: str) -> Iterator[tuple[str, Any, Any]]:
    """The model of that name, and where it is a PeftModel the same switched off: its name, itself, the context."""
    model = MAKERS[name]()
    yield name, model, nullcontext
    if hasattr(model, "disable_adapter"):
        yield f"{name}, off", model, model.disable_adapter


@torch.no_grad()
def computes(model: Any) -> torch.Tensor:
    """The states that the routers and the head of ``model`` meet, as logits and router logits say."""
    output = model(input_ids=TOKENS, output_router_logits=True)
    return torch.cat([output.logits.flatten(), *(logits.flatten() for logits in output.router_logits)]).clone()


def bfloat16(model: Any) -> Any:
    """A copy in bfloat16."""
    return copy.deepcopy(model).to(torch.bfloat16)
