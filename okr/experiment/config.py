"""The configuration of a run and where each of its values came from. Imports nothing heavy."""

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError
from pydantic.json_schema import WithJsonSchema

from okr.errors import InvalidConfig
from okr.experiment.presets import PRESETS, Preset
from okr.jobs.placement import ENVIRONMENT_PREFIX, Origin, Placement, complaint
from okr.routing.named import SettingName
from okr.routing.settings import Setting, ZoneName


def _read_infinity(value: Any) -> Any:
    return math.inf if value in ("inf", "Infinity") else value


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise ValueError("must be a number, got nan")
    return value


Extended = Annotated[
    float,
    BeforeValidator(_read_infinity),
    AfterValidator(_not_nan),
    PlainSerializer(lambda value: "inf" if value == math.inf else value, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": "inf"}]}),
]
"""A float that may be infinite; "inf" in JSON."""


class RunConfig(Placement):
    """Every value that shapes a run."""

    preset: str = Field(default="tiny", description="name of the preset the other values started from")
    samples: int = Field(default=24, ge=1, le=100_000, description="watermarked samples; as many controls are made")
    max_length: int = Field(default=80, ge=2, le=100_000, description="new tokens per sample")
    batch_size: int = Field(default=8, ge=1, le=4096, description="samples generated at once")
    setting: SettingName | None = Field(
        default=None, description="name of the setting whose values zone, epsilon and strength are; none: others"
    )
    epsilon: Extended = Field(ge=0, description="width of the zone, in the unit of each site")
    zone: ZoneName = Field(description="which experts may change places")
    strength: Extended = Field(default=math.inf, gt=0, description="weight of the key score; inf: it alone decides")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the run; every batch derives its own from it")
    key: str | None = Field(default=None, description="key file; none: a fresh key is made")
    prompts: str | None = Field(default=None, description="file of prompts; none: passages that ship with the package")
    prompt_words: int = Field(default=48, ge=1, le=200, description="words of a shipped passage that make a prompt")
    decoys: int = Field(default=999, ge=1, le=1_000_000, description="decoy keys of every verification")
    alpha: float = Field(default=0.001, gt=0, lt=1, description="significance level of a verdict")
    temperature: float = Field(default=1.0, gt=0, le=100, description="temperature of sampling")
    quality_passages: int = Field(default=64, ge=2, le=200, description="shipped passages that the cost is measured on")
    threads: int | None = Field(default=None, ge=1, le=4096, description="CPU threads; none: torch decides")
    output_dir: str = Field(min_length=1, description="folder of the results")

    def chosen(self) -> Setting:
        """The watermark's setting: zone, epsilon and strength."""
        return Setting(self.epsilon, self.zone, self.strength)


@dataclass(frozen=True)
class Resolved:
    """A configuration, where each of its values came from, the preset it started from, and what to say of it."""

    config: RunConfig
    sources: dict[str, Origin]
    preset: Preset
    notes: tuple[str, ...] = ()


def resolve(
    preset: str | None,
    flags: Mapping[str, Any],
    *,
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """Flag > configuration file > environment > preset > default. Raises InvalidConfig with one line.

    The name of a setting stands for its zone, epsilon and strength where it is given: numbers given there too, or with
    precedence over it, replace its own. The configuration then has no name, and a note says what was replaced.
    """
    from_file = _read_file(Path(file)) if file is not None else {}
    name = preset if preset is not None else from_file.get("preset", "tiny")
    if not isinstance(name, str) or name not in PRESETS:
        raise InvalidConfig(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    chosen = PRESETS[name]
    variables = os.environ if environment is None else environment
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    layers: list[tuple[Origin, Mapping[str, Any]]] = [
        ("default", {"output_dir": f"okr-runs/{name}-{stamp}"}),
        ("preset", chosen.values),
        ("environment", _from_environment(chosen, variables)),
        ("file", from_file),
        ("flag", {key: value for key, value in flags.items() if value is not None} | {"preset": name}),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, Origin] = dict.fromkeys(RunConfig.model_fields, "default")
    for origin, given in layers:
        layer = _with_values(given, chosen)
        values |= layer
        sources |= dict.fromkeys(layer, origin)
    if preset is None:
        sources["preset"] = "file" if "preset" in from_file else "default"
    notes: tuple[str, ...] = ()
    if chosen.quick_test:
        quick = variables.get("QUICK_TEST", "1") == "1"
        notes = ("quick configuration (QUICK_TEST=1)" if quick else "full configuration (QUICK_TEST=0)",)
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        raise InvalidConfig(complaint(error, sources, RunConfig)) from None
    if said := _replaced(config, sources, chosen):
        notes, config = (*notes, said), config.model_copy(update={"setting": None})
    return Resolved(config, sources, chosen, notes)


def _with_values(layer: Mapping[str, Any], preset: Preset) -> Mapping[str, Any]:
    """``layer`` with the values of the setting that it names, where it does not give its own. A name that is none is
    left to the check of the whole configuration."""
    name = layer.get("setting")
    return {**asdict(preset.named[name]), **layer} if name in tuple(preset.named) else layer


def _replaced(config: RunConfig, sources: dict[str, Origin], preset: Preset) -> str:
    """Which values of the named setting were replaced, on one line; "": none, or no setting was named. Where there are
    some, ``sources`` then says of the name what it says of the first of them."""
    if config.setting is None:
        return ""
    pairs = {part: (getattr(config, part), own) for part, own in asdict(preset.named[config.setting]).items()}
    others = {part: f"{part} {value} ({sources[part]}) in place of {own}" for part, (value, own) in pairs.items()
              if value != own}  # fmt: skip
    if not others:
        return ""
    sources["setting"] = sources[next(iter(others))]
    return f"the setting is {config.setting} with {', '.join(others.values())}"


def _from_environment(preset: Preset, variables: Mapping[str, str]) -> dict[str, Any]:
    """OKR_<FIELD> for every field, and QUICK_TEST for presets that have a quick and a full configuration."""
    values: dict[str, Any] = {}
    if preset.quick_test:
        quick = variables.get("QUICK_TEST", "1")
        if quick not in ("0", "1"):
            raise InvalidConfig(f"QUICK_TEST must be 1 (quick configuration) or 0 (full), got {quick!r}")
        values |= preset.full if quick == "0" else {}
    for name, field in RunConfig.model_fields.items():
        text = variables.get(ENVIRONMENT_PREFIX + name.upper())
        if text:
            values[name] = text if field.annotation in (str, str | None) else _number_or_text(text)
    return values


def _number_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InvalidConfig(f"cannot read configuration file {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise InvalidConfig(f"configuration file {path} is not valid {kind}: {error}") from None
    if not isinstance(values, dict):
        raise InvalidConfig(f"configuration file {path} must hold one table of settings")
    return values
