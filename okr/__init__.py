"""Opportunistic Keyed Routing: a watermark in the router of Mixture-of-Experts language models.

What ``okr.__all__`` lists is here; heavy imports wait until a name is first used, so ``import okr`` is instant. Public
beside it: ``okr.discovery`` (``search``, ``prove``, ``table``, ``discover_config``), ``okr.routing`` (the algorithm)
and ``okr.errors``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from okr.version import SPEC_VERSION, __version__

_HOME = {
    "load": "okr.loaders",
    "prepare": "okr.engines",
    "Loaded": "okr.loaders",
    "discover": "okr.discovery",
    "RouterSite": "okr.discovery",
    "Key": "okr.routing.keys",
    "watermark": "okr.engines",
    "Watermark": "okr.engines.transformers",
    "Generation": "okr.engines.transformers",
    "record": "okr.engines",
    "Recorder": "okr.engines.transformers",
    "Recording": "okr.engines.transformers",
    "Trace": "okr.traces",
    "verify": "okr.detection",
    "verify_each": "okr.detection",
    "detect": "okr.detection",
    "attribute": "okr.detection",
    "locate": "okr.detection",
    "Attribution": "okr.detection",
    "Span": "okr.detection",
    "Spans": "okr.detection",
    "Verdict": "okr.detection",
    "TraceVerdict": "okr.detection",
    "TextVerdict": "okr.detection",
    "Verdicts": "okr.detection",
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
        "InvalidText",
        "InvalidKey",
        "InvalidSetting",
        "InvalidConfig",
        "ProcessFailed",
    ),
    "okr.errors",
)

__all__ = [
    "SPEC_VERSION",
    "AlreadyAttached",
    "Attribution",
    "Generation",
    "InvalidConfig",
    "InvalidKey",
    "InvalidSetting",
    "InvalidText",
    "InvalidTrace",
    "Key",
    "Loaded",
    "ModelLoadError",
    "OKRError",
    "OutOfMemory",
    "ProcessFailed",
    "Recorder",
    "Recording",
    "RouterNotFound",
    "RouterSite",
    "Span",
    "Spans",
    "TextVerdict",
    "Trace",
    "TraceVerdict",
    "UnsupportedGeneration",
    "UnsupportedRouter",
    "Verdict",
    "Verdicts",
    "Watermark",
    "__version__",
    "attribute",
    "detect",
    "discover",
    "load",
    "locate",
    "prepare",
    "record",
    "verify",
    "verify_each",
    "watermark",
]

if TYPE_CHECKING:
    from okr.detection import (
        Attribution,
        Span,
        Spans,
        TextVerdict,
        TraceVerdict,
        Verdict,
        Verdicts,
        attribute,
        detect,
        locate,
        verify,
        verify_each,
    )
    from okr.discovery import RouterSite, discover
    from okr.engines import prepare, record, watermark
    from okr.engines.transformers import Generation, Recorder, Recording, Watermark
    from okr.errors import (
        AlreadyAttached,
        InvalidConfig,
        InvalidKey,
        InvalidSetting,
        InvalidText,
        InvalidTrace,
        ModelLoadError,
        OKRError,
        OutOfMemory,
        ProcessFailed,
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
