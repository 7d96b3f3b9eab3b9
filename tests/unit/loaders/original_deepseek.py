"""DeepSeek-MoE as its makers published it, in plain PyTorch: the independent reference for the port's tests.

Written from the architecture, sharing no code with transformers. Module names give the published checkpoint layout:
one gate, up and down matrix per expert, the router a bare ``gate.weight``, the shared experts one wide MLP.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear, silu


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 320
    hidden_size: int = 32
    intermediate_size: int = 48
    moe_intermediate_size: int = 12
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    n_routed_experts: int = 8
    num_experts_per_tok: int = 3
    n_shared_experts: int = 2
    first_k_dense_replace: int = 1
    moe_layer_freq: int = 1
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def routed(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0


class Norm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(shape.hidden_size))
        self.eps = shape.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps)


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape.n_routed_experts, shape.hidden_size))
        self.top_k = shape.num_experts_per_tok

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.softmax(linear(x, self.weight), -1)
        return torch.topk(scores, self.top_k, -1)  # greedy, not normalised


class MoE(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner = shape.hidden_size, shape.moe_intermediate_size
        self.experts = nn.ModuleList(MLP(width, inner) for _ in range(shape.n_routed_experts))
        self.gate = Gate(shape)
        self.shared_experts = MLP(width, inner * shape.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        out = torch.zeros_like(tokens)
        weights, chosen = self.gate(tokens)
        for t, token in enumerate(tokens):
            for weight, expert in zip(weights[t], chosen[t], strict=True):
                out[t] += weight * self.experts[int(expert)](token)
        return out.view_as(x) + self.shared_experts(x)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.width = shape.hidden_size // self.heads
        self.theta = shape.rope_theta
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * self.width, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, shape.hidden_size, bias=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary embedding of [B, heads, T, width]: pairs are half a width apart."""
        position = torch.arange(x.shape[-2], dtype=torch.float32)[:, None]
        angle = position / self.theta ** (torch.arange(0, self.width, 2, dtype=torch.float32) / self.width)
        low, high = x.chunk(2, -1)
        return torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.width).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        k = self.rotate(k).repeat_interleave(self.heads // self.kv_heads, 1)
        v = v.repeat_interleave(self.heads // self.kv_heads, 1)
        scores = self.rotate(q) @ k.transpose(-1, -2) / math.sqrt(self.width)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MoE(shape) if shape.routed(index) else MLP(shape.hidden_size, shape.intermediate_size)
        self.input_layernorm = Norm(shape)
        self.post_attention_layernorm = Norm(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, i) for i in range(shape.num_hidden_layers))
        self.norm = Norm(shape)


class OriginalDeepseek(nn.Module):
    """Token ids [B, T] to logits [B, T, vocabulary]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    @torch.no_grad()
    def forward(self, token_ids: Tensor) -> Tensor:
        x = self.model.embed_tokens(token_ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.lm_head(self.model.norm(x))


def hub_config(shape: Shape) -> dict[str, object]:
    """``config.json`` with the fields and values that the published one has, its sizes apart."""
    code = {"AutoConfig": "configuration_deepseek.DeepseekConfig", "AutoModel": "modeling_deepseek.DeepseekModel"}
    return {
        "architectures": ["DeepseekForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {**code, "AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM"},
        "aux_loss_alpha": 0.001,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 4096,
        "model_type": "deepseek",
        "norm_topk_prob": False,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "scoring_func": "softmax",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0",
        "use_cache": True,
        **{name: getattr(shape, name) for name in Shape.__dataclass_fields__},
        "rope_theta": 10000,
    }


def save_sharded(model: OriginalDeepseek, folder: Path, shards: int) -> None:
    """Write ``model`` as the hub has it, weights dealt out in turn so that one expert's matrices lie in many files."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    names = sorted(weights)
    placed = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(hub_config(model.shape)))
