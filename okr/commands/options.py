"""Options that several commands share, and how a command says its result."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from okr.errors import InvalidConfig
from okr.experiment.presets import named_for, preset_of
from okr.routing.named import SETTINGS, SettingName, asked_setting, replaced
from okr.routing.settings import ZONES, Setting, ZoneName

if TYPE_CHECKING:
    from okr.jobs.placement import Placement

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
KeyFile = Annotated[Path, typer.Option("--key", help="Key file (see okr keygen), env:NAME or fd:N.")]
SettingOption = Annotated[
    str | None, typer.Option("--setting", help="quiet (for traces) or loud (for text too); numbers replace its values.")
]
Epsilon = Annotated[float | None, typer.Option(help="Width of the zone, in the unit of each site; inf is allowed.")]
Zone = Annotated[str | None, typer.Option(help="Which experts may change places: max or boundary.")]
Strength = Annotated[float | None, typer.Option(help="Weight of the key score; inf: the key alone decides.")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code from the checkpoint.")]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: auto, the card where there is one.")
]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantization = Annotated[str | None, typer.Option(help="8bit or 4bit; for traces: as when they were made.")]
MaxMemory = Annotated[str | None, typer.Option(help="Most memory used on the first card, such as 70GiB.")]
Decoys = Annotated[int, typer.Option(help="Decoy keys.")]
Alpha = Annotated[float, typer.Option(help="Significance level.")]


@dataclass(frozen=True)
class AskedSetting:
    """The setting that a command was given: a name, numbers, or both. None: not given."""

    name: SettingName | None
    epsilon: float | None
    zone: ZoneName | None
    strength: float | None

    @classmethod
    def checked(cls, name: str | None, epsilon: float | None, zone: str | None, strength: float | None) -> Self:
        """What was given. Raises InvalidConfig with one line before anything is loaded."""
        if name is not None and name not in SETTINGS:
            raise InvalidConfig(f"--setting must be {' or '.join(SETTINGS)}, got {name!r}")
        if epsilon is not None and not epsilon >= 0:
            raise InvalidConfig(f"--epsilon must be a number >= 0 (inf is allowed), got {epsilon}")
        if strength is not None and not strength > 0:
            raise InvalidConfig(f"--strength must be a number > 0 (inf is allowed), got {strength}")
        if zone is not None and zone not in ZONES:
            raise InvalidConfig(f"--zone must be {' or '.join(ZONES)}, got {zone!r}")
        return cls(name, epsilon, zone, strength)  # type: ignore[arg-type]  # checked above

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers that were given, None for the others."""
        return {"epsilon": self.epsilon, "zone": self.zone, "strength": self.strength}

    def for_text(self, model: str) -> Setting:
        """The setting that texts of ``model`` were written under. Raises InvalidConfig where neither a name nor an
        epsilon was given."""
        if self.name is None and self.epsilon is None:
            raise InvalidConfig(
                "say which setting the text was written under: --setting loud (or quiet), or --epsilon with --zone and "
                "--strength"
            )
        return asked_setting(self.name, **self.numbers, named=named_for(model))

    def for_traces(self, model: str) -> dict[str, Any]:
        """Epsilon, zone and strength in place of those in the headers of traces of ``model``; None: the header's."""
        if self.name is None:
            return self.numbers
        return asdict(asked_setting(self.name, **self.numbers, named=named_for(model)))

    def for_generation(self, model: str) -> Setting:
        """The setting to generate under: where there is a preset for ``model`` and no name, the preset's own, with the
        numbers that were given in place of its values."""
        preset = preset_of(model)
        if self.name is None and preset is not None:
            return replaced(preset.setting, **self.numbers)
        return asked_setting(self.name, **self.numbers, named=named_for(model))


def placement_of(
    model: str,
    device: str | None,
    dtype: str | None,
    quantization: str | None,
    max_memory: str | None,
    trust_remote_code: bool,
) -> "Placement":
    """Which model a command works with, and where its weights go. InvalidConfig before anything is loaded."""
    from okr.jobs.placement import Placement

    placing = {"device": device, "dtype": dtype, "quantization": quantization, "max_memory": max_memory}
    return Placement.of(model, **placing, trust_remote_code=trust_remote_code)


def say(document: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result on stdout, as JSON or as text."""
    print(json.dumps(_safe(document), indent=2) if as_json else text)


def _safe(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    if isinstance(value, dict):
        return {name: _safe(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
