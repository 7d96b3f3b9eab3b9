"""Writes an embedded model as a checkpoint that serving engines read: float32, with its output embedding."""

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
from okr.loaders.loading import load
from okr.loaders.quiet import quiet
from okr.loaders.sources import Place
from okr.version import __version__


def exported(place: Place) -> Path:
    """The folder of an embedded model's checkpoint. It is written once, into the user's cache.

    Raises InvalidConfig for a model that is no file anywhere.
    """
    if place.kind != "embedded":
        raise InvalidConfig(f"{place.name} has random weights and no files: name a folder or a hub id")
    source = Path(place.location)
    held = hashlib.sha256((source / "config.json").read_bytes() + (source / "model.safetensors").read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "okr" / "exported"
    folder = base / f"{place.name}-{__version__}-{held.hexdigest()[:12]}"
    if not (folder / "config.json").exists():
        _write(place, folder)
    return folder


def _write(place: Place, folder: Path) -> None:
    """Write the checkpoint of an embedded model. It appears whole or not at all."""
    loaded = load(place.name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            with quiet(progress=False):
                export(loaded.model, made)
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
    """Write a transformers model into ``folder``, the output embedding of a decoder-only one included.

    vLLM's class for DeepSeek-MoE ties no embeddings: without ``lm_head.weight`` in the file all its logits are 0,
    silently. T5's classes scale their states only where embeddings are tied, so theirs stay as they are.
    """
    config = model.config
    if config.tie_word_embeddings and not config.is_encoder_decoder:
        config.tie_word_embeddings = False
        weight = model.get_input_embeddings().weight
        model.get_output_embeddings().weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    with torch.no_grad():
        model.save_pretrained(folder)
