"""Makes DeepSeek-MoE-16B with random weights: the published shape without the 33 GB download, to try a machine out.

Its memory, placement, speed, traces and verification are those of the real model; its text is noise. Every weight is
made on the device where it stays, so the host holds no part of a model on a card.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import get_max_memory

from okr.errors import OutOfMemory
from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}
"""The shape in config.json of deepseek-ai/deepseek-moe-16b-base: 27 routed layers, 16.4 billion weights."""

SEED = 0


def random_model(
    config: DeepseekConfig,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device_map: Any = None,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> DeepseekForCausalLM:
    """A model of ``config``'s shape with random weights. The weights are the same at every call on the same kind of
    device. ``device_map`` and ``max_memory`` are those of :func:`okr.load`.

    Raises OutOfMemory, before anything is allocated, if the weights do not fit into the free memory.
    """
    needed, room = weight_bytes(config, dtype), _room(device_map, max_memory)
    if needed > room:
        raise OutOfMemory(
            f"{needed / 1e9:.1f} GB of random weights do not fit into the {room / 1e9:.1f} GB that are free where they "
            "would go: use a card (device_map='auto', --device auto) with more memory, or a smaller model"
        )
    placing = {"device_map": device_map, "max_memory": max_memory and dict(max_memory)}
    given = {name: value for name, value in placing.items() if value is not None}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(SEED)
        # Without weight files, transformers makes every weight on its device by the model's own initialisation.
        model: Any = DeepseekForCausalLM.from_pretrained(None, config=config, state_dict={}, dtype=dtype, **given)
    made: DeepseekForCausalLM = model.eval()
    return made


def weight_bytes(config: DeepseekConfig, dtype: torch.dtype) -> int:
    """The size of the model's weights in ``dtype``, in bytes."""
    with torch.device("meta"):
        model = DeepseekForCausalLM(config)
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def _room(device_map: Any, max_memory: Mapping[int | str, int | str] | None) -> int:
    """The free memory, in bytes, where ``device_map`` puts the weights."""
    free: dict[int | str, int] = get_max_memory(max_memory and dict(max_memory))
    if device_map is None or str(device_map) == "cpu":
        return free["cpu"]
    if str(device_map).startswith("cuda"):
        return free[torch.device(device_map).index or 0]
    return sum(free.values())
