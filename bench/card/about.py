"""What a figure was measured on. Nothing here imports the routing, whose shapes the suite checks as it imports it."""

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from okr.pages.machine import machine


def surroundings(device: str) -> dict[str, Any]:
    """The machine, the versions and the date; on a card also its memory, driver and what kernels are compiled with."""
    found: dict[str, Any] = dict(machine(device))
    if device == "cpu":
        return found
    about = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = shutil.which(asked[0]) and subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    return found | {
        "memory, GiB": round(about.total_memory / 2**30, 1),
        "capability": f"{about.major}.{about.minor}",
        "CUDA": torch.version.cuda,
        "driver": (driver or "unknown").split("\n")[0],
        "triton": triton,
        "C compiler": shutil.which("cc") or shutil.which("gcc"),
    }
