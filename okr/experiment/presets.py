"""What each preset of ``okr run`` sets. Everything else is RunConfig's default."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from okr.routing.named import NAMED, SettingName
from okr.routing.settings import Setting

SWITCH_STRENGTHS: Mapping[SettingName, float] = MappingProxyType({"quiet": 4.0, "loud": 4.0})
"""The strengths of the named settings for Switch Transformers, whose top-1 routers are far surer of their choice. They
were measured on the embedded one (docs/settings.md)."""

SWITCH_SETTINGS: Mapping[SettingName, Setting] = MappingProxyType(
    {name: Setting(math.inf, "boundary", strength) for name, strength in SWITCH_STRENGTHS.items()}
)

GUIDE_SETTING = Setting(2.0, "max", math.inf)
"""The guide's setting: among the experts within 2.0 of the best, the key alone decides."""

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Preset:
    """One named experiment.

    ``values`` are RunConfig fields; ``full`` replaces some of them when QUICK_TEST=0 is set (``quick_test`` presets
    only). ``named`` holds the values of the named settings for the preset's model. ``declared`` holds the expert counts
    that the experiment's description states: a model that has others keeps its own and the difference is reported.
    """

    about: str
    values: Mapping[str, Any]
    named: Mapping[SettingName, Setting] = field(default_factory=lambda: NAMED)
    log_file: str = "experiment.log"
    declared: Mapping[str, int] = field(default_factory=lambda: _NONE)
    full: Mapping[str, Any] = field(default_factory=lambda: _NONE)

    @property
    def quick_test(self) -> bool:
        """Whether QUICK_TEST chooses between a quick and a full configuration."""
        return bool(self.full)

    @property
    def setting(self) -> Setting:
        """The setting where none is asked for."""
        name = self.values.get("setting")
        if name is not None:
            return self.named[name]
        return Setting(**{part: self.values[part] for part in ("epsilon", "zone", "strength")})


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        "the embedded model with DeepSeek-MoE's structure: offline, a minute on a laptop",
        {"model": "tiny", "dtype": "float32", "threads": 1, "setting": "quiet"},
        declared={"num_experts": 64, "top_k": 6},
    ),
    "tiny-switch": Preset(
        "the embedded Switch Transformer, encoder and decoder: offline",
        {"model": "tiny-switch", "dtype": "float32", "threads": 1, "temperature": 0.8, "setting": "quiet"},
        named=SWITCH_SETTINGS,
        declared={"num_experts": 8, "top_k": 1},
    ),
    "switch": Preset(
        "google/switch-base-8, from the hub",
        {"model": "switch", "device": "auto", **asdict(GUIDE_SETTING)},
        named=SWITCH_SETTINGS,
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
            **asdict(GUIDE_SETTING),
        },
        log_file="deepseek_moe_experiment.log",
        declared={"num_experts": 64, "top_k": 8},
        full={"samples": 100, "max_length": 256, "quality_passages": 100},
    ),
}


def preset_of(model: str) -> Preset | None:
    """The preset of ``model``, which is the name of a preset or of an embedded model; None: there is none."""
    return PRESETS.get("tiny" if model == "tiny-deepseek-moe" else model)


def named_for(model: str) -> Mapping[SettingName, Setting]:
    """The values of the named settings for ``model``: those of its preset, or the general ones."""
    preset = preset_of(model)
    return NAMED if preset is None else preset.named
