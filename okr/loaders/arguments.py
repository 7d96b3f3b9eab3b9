"""Checks the arguments of :func:`okr.load` before anything is looked up or downloaded."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from accelerate.utils import convert_file_size_to_int
from transformers import BitsAndBytesConfig

from okr.errors import InvalidSetting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Modules that stay unquantised: routers decide which experts run, and the output layer decides the token.
# Older releases of transformers match the beginning of a name only: the pattern for `gate` must exclude `gate_proj`.
UNQUANTISED = [r".*\.gate(?=\.|$)", r".*\.router(?=\.|$)", "lm_head"]


def as_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The ``torch.dtype`` that ``dtype`` names; ``auto`` stays ``auto``. Raises InvalidSetting for any other value."""
    if dtype == "auto" or (isinstance(dtype, torch.dtype) and dtype in DTYPES.values()):
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise InvalidSetting(f"dtype must be auto, {', '.join(DTYPES)} or the torch.dtype of one, got {dtype!r}")


def check_devices(device_map: Any, max_memory: Mapping[int | str, int | str] | None) -> None:
    """Raise InvalidSetting if ``device_map`` names no device or an absent card, or if ``max_memory`` is malformed or
    has no device map to act on."""
    asked = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    numbers = [device for device in asked if isinstance(device, int)]
    if (numbers or any(str(d).startswith("cuda") for d in asked)) and not torch.cuda.is_available():
        raise InvalidSetting(f"device_map {device_map!r} asks for a CUDA card and torch sees none: use 'auto' or 'cpu'")
    for device in asked:
        if not (device is None or isinstance(device, int | torch.device) or _is_place(device)):
            raise InvalidSetting(f"device_map {device_map!r}: {device!r} is no device; use 'auto', 'cpu' or 'cuda:N'")
    if max_memory is None:
        return
    if device_map is None:
        raise InvalidSetting("max_memory needs a device_map, such as device_map='auto': without one it has no effect")
    if not isinstance(max_memory, Mapping) or not all(_is_size(size) for size in max_memory.values()):
        raise InvalidSetting(f"max_memory must be sizes by device, such as {{0: '70GiB'}}, got {max_memory!r}")


def _is_place(name: object) -> bool:
    """Whether ``name`` is a device, the disk, or one of transformers' ways to place a model."""
    if not isinstance(name, str) or name in ("auto", "balanced", "balanced_low_0", "sequential", "disk"):
        return isinstance(name, str)
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _is_size(size: object) -> bool:
    try:
        return not isinstance(size, bool) and convert_file_size_to_int(size) >= 0  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        return False


def as_quantization(quantization: str | None) -> BitsAndBytesConfig | None:
    """The configuration by which transformers quantises a model while it loads; None for None. Routers and the output
    layer are not quantised.

    Raises InvalidSetting for a value other than ``8bit`` and ``4bit``, and if bitsandbytes is not installed.
    """
    if quantization is None:
        return None
    if quantization not in ("8bit", "4bit"):
        raise InvalidSetting(f"quantization must be '8bit', '4bit' or None, got {quantization!r}")
    if find_spec("bitsandbytes") is None:
        raise InvalidSetting(
            f"quantization {quantization!r} needs bitsandbytes, which is not installed: pip install bitsandbytes"
        )
    for chatty in ("autograd._functions", "backends.cpu.ops"):  # they warn of what needs no action
        logging.getLogger(f"bitsandbytes.{chatty}").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTISED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=UNQUANTISED,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
