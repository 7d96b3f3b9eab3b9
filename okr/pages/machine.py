"""Describes the machine on which figures are measured."""

import platform
import time
from pathlib import Path

import numba
import numpy as np
import torch
import transformers


def machine(device: str = "cpu") -> dict[str, str]:
    """The processor, the card if ``device`` is one, the versions of the libraries, and the date (UTC)."""
    info = Path("/proc/cpuinfo")
    named = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return {
        "processor": named[0].partition(":")[2].strip() if named else platform.processor(),
        **({} if device == "cpu" else {"card": torch.cuda.get_device_name()}),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
