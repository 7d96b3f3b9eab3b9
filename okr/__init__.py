"""Opportunistic Keyed Routing: a watermark in the router of Mixture-of-Experts language models.

Everything public is here; heavy imports wait until a name is first used, so ``import okr`` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
SPEC_VERSION = "1.0"

_HOME = {
    "load": "okr.loaders",
    "Loaded": "okr.loaders",
    "discover": "okr.discovery",
    "RouterSite": "okr.discovery",
    "Key": "okr.routing.keys",
    "watermark": "okr.attach",
    "Watermark": "okr.attach",
    "Generation": "okr.attach",
    "record": "okr.attach",
    "Recorder": "okr.attach",
    "Trace": "okr.traces",
    "verify": "okr.detection",
    "Verdict": "okr.detection",
} | dict.fromkeys(
    (
        "OKRError",
        "RouterNotFound",
        "UnsupportedRouter",
        "AlreadyAttached",
        "UnsupportedGeneration",
        "ModelLoadError",
        "OutOfMemory",
        "InvalidTrace",
        "InvalidKey",
        "InvalidSetting",
        "InvalidConfig",
    ),
    "okr.errors",
)

__all__ = [
    "SPEC_VERSION",
    "AlreadyAttached",
    "Generation",
    "InvalidConfig",
    "InvalidKey",
    "InvalidSetting",
    "InvalidTrace",
    "Key",
    "Loaded",
    "ModelLoadError",
    "OKRError",
    "OutOfMemory",
    "Recorder",
    "RouterNotFound",
    "RouterSite",
    "Trace",
    "UnsupportedGeneration",
    "UnsupportedRouter",
    "Verdict",
    "Watermark",
    "__version__",
    "discover",
    "load",
    "record",
    "verify",
    "watermark",
]

if TYPE_CHECKING:
    from okr.attach import Generation, Recorder, Watermark, record, watermark
    from okr.detection import Verdict, verify
    from okr.discovery import RouterSite, discover
    from okr.errors import (
        AlreadyAttached,
        InvalidConfig,
        InvalidKey,
        InvalidSetting,
        InvalidTrace,
        ModelLoadError,
        OKRError,
        OutOfMemory,
        RouterNotFound,
        UnsupportedGeneration,
        UnsupportedRouter,
    )
    from okr.loaders import Loaded, load
    from okr.routing.keys import Key
    from okr.traces import Trace


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'okr' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
