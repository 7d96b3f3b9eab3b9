"""Small checkpoints in several shards, with all that stands beside the weights of a published one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from okr import Key
from okr.baking import Checkpoint, Gate, Gates, Header, bake, unbake
from okr.baking.checkpoint import INDEX
from okr.errors import InvalidConfig

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
EXPERTS, HIDDEN, LAYERS = 8, 16, 3
BESIDE = {
    "config.json": "{}",
    "generation_config.json": '{"do_sample": true}',
    "chat_template.jinja": "{{ messages }}",
    "tokenizer.json": '{"version": "1.0"}',
    "tokenizer.model": "pieces",
    "README.md": "# A model\n",
    ".gitattributes": "*.safetensors filter=lfs\n",
    ".cache/huggingface/download/config.json.metadata": "0123\n",
    "assets/deep/picture.svg": "<svg/>",
}


def gate_name(layer: int) -> str:
    return f"model.layers.{layer}.mlp.gate.weight"


def write(
    folder: Path, dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32, torch.float16), shards: int = 3
) -> Path:
    """A checkpoint with a gate of each of ``dtypes``, spread over ``shards`` files, or one file if that is 1."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for layer, dtype in enumerate(dtypes):
        part = parts[layer % shards]
        part[gate_name(layer)] = (torch.randn(EXPERTS, HIDDEN, generator=generator) / 4).to(dtype)
        part[f"model.layers.{layer}.mlp.experts.weight"] = torch.randn(40, HIDDEN, generator=generator).bfloat16()
        part[f"model.layers.{layer}.scale"] = torch.tensor([1, 2, 3], dtype=torch.int8)
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    names = ["model.safetensors"] if shards == 1 else names
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name, metadata={"format": "pt"})
    if shards > 1:
        weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    for name, content in BESIDE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def known(folder: Path, layers: int = LAYERS, norm: float = 4.0) -> Gates:
    """What would have been measured of the checkpoint in ``folder``."""
    checkpoint = Checkpoint(folder)
    return Gates(
        model="small",
        gates=tuple(
            Gate(
                stack="decoder",
                layer=layer,
                num_experts=EXPERTS,
                hidden_size=HIDDEN,
                tensor=gate_name(layer),
                parameter=gate_name(layer),
                norm=norm,
                sha256=hashlib.sha256(checkpoint.raw(gate_name(layer))).hexdigest(),
            )
            for layer in range(layers)
        ),
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def baking(model: Path, target: Path, key: Key = KEY) -> Header:
    """Bake the checkpoint ``model`` into ``target``."""
    return bake(model, target, key, known(model), 0.5)


def refused(message: str, *given: Any, kind: type[Exception] = InvalidConfig) -> None:
    """Baking or, with three arguments, unbaking fails with ``message`` on one line."""
    with pytest.raises(kind) as caught:
        (bake if len(given) > 3 else unbake)(*given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
