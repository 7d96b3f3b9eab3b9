"""Options that several commands share, and how a command says its result."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from okr.errors import InvalidConfig

if TYPE_CHECKING:
    from okr.jobs.placement import Placement

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
KeyFile = Annotated[Path, typer.Option("--key", help="Key file (see okr keygen), env:NAME or fd:N.")]
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


def check_setting(epsilon: float | None, zone: str | None, strength: float | None) -> None:
    """Refuse a bad setting before anything is loaded."""
    if epsilon is not None and not epsilon >= 0:
        raise InvalidConfig(f"--epsilon must be a number >= 0 (inf is allowed), got {epsilon}")
    if strength is not None and not strength > 0:
        raise InvalidConfig(f"--strength must be a number > 0 (inf is allowed), got {strength}")
    if zone not in (None, "max", "boundary"):
        raise InvalidConfig(f"--zone must be max or boundary, got {zone!r}")


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
