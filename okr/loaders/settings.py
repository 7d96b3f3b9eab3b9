"""Checking the arguments of :func:`okr.load` before anything is looked up or downloaded."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from okr.errors import InvalidSetting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Routers decide which experts run, and the last projection which token: neither is worth the memory it would save.
UNQUANTISED = [r".*\.gate", r".*\.router", "lm_head"]


def as_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The ``torch.dtype`` that ``dtype`` names, or ``auto`` as it is."""
    if dtype == "auto" or (isinstance(dtype, torch.dtype) and dtype in DTYPES.values()):
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise InvalidSetting(f"dtype must be auto, {', '.join(DTYPES)} or the torch.dtype of one, got {dtype!r}")


def check_devices(device_map: Any, max_memory: Mapping[int | str, int | str] | None) -> None:
    """Refuse a device map that asks for a card that is not there, and a cap that would be ignored."""
    asked = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    if any(str(d).startswith("cuda") for d in asked) and not torch.cuda.is_available():
        raise InvalidSetting(f"device_map {device_map!r} asks for a CUDA card and torch sees none: use 'auto' or 'cpu'")
    if max_memory is not None and device_map is None:
        raise InvalidSetting("max_memory needs a device_map, such as device_map='auto': without one it has no effect")


def as_quantization(quantization: str | None) -> BitsAndBytesConfig | None:
    """The quantisation that transformers applies while loading; routers and the output projection stay as they are."""
    if quantization is None:
        return None
    if quantization not in ("8bit", "4bit"):
        raise InvalidSetting(f"quantization must be '8bit', '4bit' or None, got {quantization!r}")
    if find_spec("bitsandbytes") is None:
        raise InvalidSetting(
            f"quantization {quantization!r} needs bitsandbytes, which is not installed: "
            "pip install 'okr-watermark[quant]'"
        )
    for chatty in ("autograd._functions", "backends.cpu.ops"):  # at every product; of a kernel that is not needed
        logging.getLogger(f"bitsandbytes.{chatty}").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTISED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=UNQUANTISED,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
