"""What each preset of ``okr run`` sets. Everything else is RunConfig's default."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

EMBEDDED_SETTING: Mapping[str, Any] = MappingProxyType({"zone": "boundary", "epsilon": math.inf, "strength": 1.0})
"""The watermark setting of tiny-deepseek-moe: soft keying, where every expert may compete (docs/settings.md)."""

SWITCH_SETTING: Mapping[str, Any] = MappingProxyType({**EMBEDDED_SETTING, "strength": 4.0})
"""The same for tiny-switch, whose top-1 routers are far surer of their choice (docs/settings.md)."""

GUIDE_SETTING: Mapping[str, Any] = MappingProxyType({"zone": "max", "epsilon": 2.0, "strength": math.inf})
"""The guide's setting: among the experts within 2.0 of the best, the key alone decides."""

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Preset:
    """One named experiment.

    ``values`` are RunConfig fields; ``full`` replaces some of them when QUICK_TEST=0 is set (``quick_test`` presets
    only). ``declared`` holds the expert counts that the experiment's description states: a model that has others
    keeps its own and the difference is reported.
    """

    about: str
    values: Mapping[str, Any]
    log_file: str = "experiment.log"
    declared: Mapping[str, int] = field(default_factory=lambda: _NONE)
    full: Mapping[str, Any] = field(default_factory=lambda: _NONE)

    @property
    def quick_test(self) -> bool:
        """Whether QUICK_TEST chooses between a quick and a full configuration."""
        return bool(self.full)


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        "the embedded model with DeepSeek-MoE's structure: offline, a minute on a laptop",
        {"model": "tiny", "dtype": "float32", "threads": 1, **EMBEDDED_SETTING},
        declared={"num_experts": 64, "top_k": 6},
    ),
    "tiny-switch": Preset(
        "the embedded Switch Transformer, encoder and decoder: offline",
        {"model": "tiny-switch", "dtype": "float32", "threads": 1, "temperature": 0.8, **SWITCH_SETTING},
        declared={"num_experts": 8, "top_k": 1},
    ),
    "switch": Preset(
        "google/switch-base-8, from the hub",
        {"model": "switch", "device": "auto", **GUIDE_SETTING},
        declared={"num_experts": 8, "top_k": 1},
    ),
    "deepseek-moe": Preset(
        "DeepSeek-MoE-16B in bfloat16 on one 80 GB card; QUICK_TEST=0 for the full configuration",
        {
            "model": "deepseek-moe",
            "dtype": "bfloat16",
            "device": "auto",
            "max_memory": "70GiB",
            "batch_size": 1,
            "samples": 4,
            "max_length": 64,
            "quality_passages": 8,
            **GUIDE_SETTING,
        },
        log_file="deepseek_moe_experiment.log",
        declared={"num_experts": 64, "top_k": 8},
        full={"samples": 100, "max_length": 256, "quality_passages": 100},
    ),
}
