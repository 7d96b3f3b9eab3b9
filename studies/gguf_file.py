"""Writes a DeepSeek-MoE checkpoint, baked or not, as a GGUF file for llama.cpp.

    python studies/gguf_file.py tiny-deepseek-moe baked.gguf --type Q4_0

It is for the embedded model. llama.cpp does not know its tokenizer, so the file has no vocabulary, and llama.cpp reads
and gives token ids. For published models use llama.cpp's own convert_hf_to_gguf.py, which reads a baked folder as it
reads the original. Both write gates in float32, whatever the type of the other matrices. Needs the package ``gguf``.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from okr.baking import Checkpoint
from okr.baking.models import checkpoint_folder
from okr.errors import OKRError

TYPES = {name: gguf.GGMLQuantizationType[name] for name in ("F32", "Q8_0", "Q4_0")}
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)(\..*)")


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write the checkpoint in ``folder`` to ``path``, with its matrices as ``kind``: F32, Q8_0 or Q4_0."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(path, "deepseek")
    _describe(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK, config["num_hidden_layers"])
    for name, tensor in _tensors(Checkpoint(folder), config).items():
        plain = tensor.ndim == 1 or name.endswith(".mlp.gate.weight")
        wanted = TYPES["F32" if plain else kind]
        held = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(held, gguf.quantize(tensor, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Write the shape of the model."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(1.0)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def _tensors(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors in float32 as llama.cpp wants them: one of all experts of a layer, and interleaved queries and
    keys."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found: dict[str, Any] = {}
    for name in checkpoint.tensors:
        tensor = checkpoint.tensor(name).float().numpy()
        expert = _EXPERT.fullmatch(name)
        part = name.split(".")[-2]
        if expert:
            found.setdefault(expert[1] + expert[3], {})[int(expert[2])] = tensor
        elif part in heads:
            found[name] = interleaved(tensor, heads[part])
        else:
            found[name] = tensor
    return {
        name: np.stack([held[index] for index in sorted(held)]) if isinstance(held, dict) else held
        for name, held in found.items()
    }


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows [heads * size, d] of a query or key projection in llama.cpp's order. transformers rotates row i of a
    head together with row i + size / 2, and llama.cpp rotates neighbours."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="embedded name, or folder of a checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=TYPES, default="F32")
    arguments = parser.parse_args()
    try:
        write_gguf(checkpoint_folder(arguments.model), arguments.out, arguments.type)
    except OKRError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
