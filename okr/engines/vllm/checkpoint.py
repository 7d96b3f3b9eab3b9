"""Writes an embedded model as a checkpoint that vLLM serves."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from okr.errors import InvalidConfig
from okr.loaders import load
from okr.loaders.quiet import quiet
from okr.loaders.sources import Place
from okr.version import __version__


def served_folder(place: Place) -> Path:
    """The folder of an embedded model's checkpoint. It is written once, into the user's cache.

    Raises InvalidConfig for a model that is no file anywhere or that vLLM cannot serve.
    """
    if place.kind != "embedded":
        raise InvalidConfig(f"{place.name} has random weights and no files: vLLM serves a folder or a hub id")
    source = Path(place.location)
    held = hashlib.sha256((source / "config.json").read_bytes() + (source / "model.safetensors").read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "okr" / "served"
    folder = base / f"{place.name}-{__version__}-{held.hexdigest()[:12]}"
    if not (folder / "config.json").exists():
        _write(place, folder)
    return folder


def _write(place: Place, folder: Path) -> None:
    """Write the checkpoint of an embedded model. It appears whole or not at all."""
    loaded = load(place.name)
    model = loaded.model
    if model.config.is_encoder_decoder:
        raise InvalidConfig(f"{place.name} is an encoder-decoder: vLLM serves decoder-only models, such as tiny")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            with quiet(progress=False):
                export(model, made)
            loaded.tokenizer.save_pretrained(made)
            made.chmod(0o755)
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        if not (folder / "config.json").exists():  # else another process was faster
            raise InvalidConfig(
                f"cannot write {folder}: {error.strerror}: set XDG_CACHE_HOME to a writable folder"
            ) from None


def export(model: Any, folder: Path) -> None:
    """Write a transformers model into ``folder`` as vLLM reads its class.

    vLLM's class for DeepSeek-MoE ties no embeddings: without ``lm_head.weight`` in the file all its logits are 0,
    silently. So the output embedding is written out.
    """
    made: Any = model
    config = made.config
    if config.tie_word_embeddings:
        config.tie_word_embeddings = False
        weight = made.get_input_embeddings().weight
        made.get_output_embeddings().weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    head = getattr(config, "head_dim", None)
    if config.model_type == "deepseek" and head not in (None, config.hidden_size // config.num_attention_heads):
        raise InvalidConfig(f"vLLM takes heads of hidden_size / num_attention_heads numbers for this class, not {head}")
    with torch.no_grad():
        made.save_pretrained(folder)
