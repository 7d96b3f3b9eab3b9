"""``okr calibrate``: measure settings on a model and recommend one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okr.commands.options import AsJson, Device, Dtype, MaxMemory, Quantization, Remote, placement_of, say
from okr.errors import InvalidConfig, InvalidText

if TYPE_CHECKING:
    from okr.jobs.placement import Placement
    from okr.tuning.sweep import Calibration, Sweep

NO_SETTING = 1
SETTINGS = (
    "max:1",
    "max:2",
    "boundary:0.5",
    "boundary:1",
    "boundary:inf:0.5",
    "boundary:inf:1",
    "boundary:inf:1.5",
    "boundary:inf:2",
)


def calibrate_command(
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id.")],
    text: Annotated[Path | None, typer.Argument(help="Held-out text, a passage a line; none: shipped ones.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for calibration.json and calibration.svg.")] = Path(
        "okr-calibration"
    ),
    setting: Annotated[
        list[str] | None, typer.Option(help="ZONE:EPSILON[:STRENGTH]; repeat it. None: eight common ones.")
    ] = None,
    evidence: Annotated[str, typer.Option(help="What the key must be found in: trace or text.")] = "text",
    tokens: Annotated[int, typer.Option(help="In how many new tokens it must be found.")] = 400,
    fpr: Annotated[float, typer.Option(help="At which false-positive rate: 0.01 or 0.001.")] = 0.01,
    samples: Annotated[int, typer.Option(help="Texts generated under each setting.")] = 16,
    keys: Annotated[int, typer.Option(help="Keys they are made under.")] = 4,
    length: Annotated[int, typer.Option(help="New tokens of each.")] = 160,
    passages: Annotated[int, typer.Option(help="Held-out passages that the cost is measured on.")] = 24,
    temperature: Annotated[float, typer.Option(help="Temperature of sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in the output folder.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Measure what settings cost and prove, and recommend the cheapest that meets a target. Exit code 1: none does."""
    if evidence not in ("trace", "text") or fpr not in (0.01, 0.001) or tokens < 1:
        raise InvalidConfig("--evidence is trace or text, --fpr 0.01 or 0.001, --tokens at least 1")
    settings = [_setting(word) for word in setting or SETTINGS]
    held_out = _passages(text, passages)
    from okr.commands.running import resumable, shown
    from okr.jobs.processes import joined
    from okr.jobs.store import PLAN
    from okr.tuning.runner import TASKS, calibrate

    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    sweep = _sweep(placement, settings, held_out, samples, keys, length, temperature, seed)
    with (
        joined() as processes,
        resumable(output_dir / TASKS / PLAN, "calibrate"),
        shown(processes.main) as progress,
    ):
        done = calibrate(sweep, placement, held_out, output_dir, resume=resume, progress=progress, processes=processes)
    if done is None:
        return
    best = done.cheapest(evidence, tokens, fpr)
    document = done.model_dump(mode="json") | {"recommended": best.model_dump(mode="json") if best else None}
    say(document, as_json, _summary(done, evidence, tokens, fpr, output_dir))
    if best is None:
        raise typer.Exit(NO_SETTING)


def _sweep(
    placement: "Placement",
    settings: Sequence[tuple[str, float, float]],
    held_out: Sequence[str],
    samples: int,
    keys: int,
    length: int,
    temperature: float,
    seed: int,
) -> "Sweep":
    from pydantic import ValidationError

    from okr.tuning.sweep import Sweep, digest
    from okr.validation import first_problem

    try:
        return Sweep(
            model=placement.model,
            dtype=placement.dtype,
            quantization=placement.quantization,
            settings=tuple(settings),  # type: ignore[arg-type]
            passages=len(held_out),
            text_digest=digest(held_out),
            samples=samples,
            keys=keys,
            tokens=length,
            decoys=31,
            temperature=temperature,
            seed=seed,
        )
    except ValidationError as error:
        problem = first_problem(error)
        raise InvalidConfig(f"--{problem.field.replace('tokens', 'length')}: {problem.message}") from None


def _setting(word: str) -> tuple[str, float, float]:
    zone, *numbers = word.split(":")
    try:
        epsilon, strength = (*map(float, numbers), math.inf)[:2]
        if len(numbers) not in (1, 2) or zone not in ("max", "boundary") or not (epsilon >= 0 and strength > 0):
            raise ValueError
    except ValueError:
        raise InvalidConfig(f"--setting {word!r} is not ZONE:EPSILON[:STRENGTH], such as boundary:inf:1.5") from None
    return zone, epsilon, strength


def _passages(text: Path | None, count: int) -> list[str]:
    if text is None:
        from okr.loaders import passages

        return [passage.text for passage in passages(count)]
    try:
        lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidText(f"cannot read {text} as UTF-8 text: {getattr(error, 'strerror', None) or error}") from None
    found = [line for line in lines if len(line.split()) >= 50][:count]
    if len(found) < 2:
        raise InvalidText(f"{text} holds {len(found)} passages of 50 words or more, one a line; at least 2 are needed")
    return found


def _summary(done: "Calibration", evidence: str, tokens: int, fpr: float, folder: Path) -> str:
    lines = [
        f"{'zone':<9}{'epsilon':>8}{'strength':>9}{'opportunities':>14}{'cost, nats/token':>25}"
        f"{'tokens by trace':>16}{'tokens by text':>24}"
    ]
    for line in done.measured:
        need = next(need for need in line.needed if need.fpr == fpr)
        span = f"{need.text or '-'} ({need.text_low or '-'} to {need.text_high or 'no bound'})"
        cost = f"{line.cost:.4f} ({line.cost_low:.4f} to {line.cost_high:.4f})"
        lines.append(
            f"{line.zone:<9}{line.epsilon:>8g}{line.strength:>9g}{line.opportunity_rate:>14.0%}  {cost:>24}"
            f"{need.trace or '-':>16}{span:>24}"
        )
    lines.append(f"tokens: for a true-positive rate of 0.95 at a false-positive rate of {fpr:g}; text: extrapolated")
    best = done.cheapest(evidence, tokens, fpr)
    if best is None:
        lines.append(f"no setting is found by {evidence} within {tokens} tokens: allow more tokens, or a higher cost")
    else:
        lines.append(
            f"recommended: --zone {best.zone} --epsilon {best.epsilon:g} --strength {best.strength:g} "
            f"({best.cost:.4f} nats per token)"
        )
    return "\n".join([*lines, f"written to {folder}"])
