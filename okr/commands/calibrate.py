"""``okr calibrate``: measure settings on a model, and find its quiet and its loud one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from okr.commands.options import AsJson, Device, MaxMemory, Quantization, Remote, placement_of, say
from okr.errors import InvalidConfig, InvalidText
from okr.experiment.presets import named_for
from okr.routing.settings import ZONES, Setting

if TYPE_CHECKING:
    from okr.jobs.placement import Placement
    from okr.tuning.sweep import Calibration, Found, Measured, Sweep

NO_SETTING = 1
SETTINGS = tuple(f"boundary:inf:{strength}" for strength in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 1.5, 2, 4))


def calibrate_command(
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id.")],
    text: Annotated[Path | None, typer.Argument(help="Held-out text, a passage a line; none: shipped ones.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for calibration.json and calibration.svg.")] = Path(
        "okr-calibration"
    ),
    setting: Annotated[
        list[str] | None,
        typer.Option(help="quiet, loud or ZONE:EPSILON[:STRENGTH]; repeat it. None: strengths from 0.05 to 4."),
    ] = None,
    trace_tokens: Annotated[int, typer.Option(min=1, help="In how many new tokens a trace must prove quiet.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="In how many new tokens text alone must show loud.")] = 400,
    fpr: Annotated[float, typer.Option(help="At which false-positive rate it must: 0.01 or 0.001.")] = 0.01,
    samples: Annotated[int, typer.Option(help="Texts generated under each setting.")] = 24,
    keys: Annotated[int, typer.Option(help="Keys they are made under.")] = 3,
    length: Annotated[int, typer.Option(help="New tokens of each.")] = 160,
    passages: Annotated[int, typer.Option(help="Held-out passages that the cost is measured on.")] = 24,
    temperature: Annotated[float, typer.Option(help="Temperature of sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in the output folder.")] = False,
    device: Device = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="auto, float32, bfloat16 or float16; repeat it: traces must prove quiet in each."),
    ] = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Measure what settings cost and prove, and find quiet and loud for a model. Exit code 1: neither is found.

    quiet is the weakest setting that 95% of traces prove at p <= 0.001 within --trace-tokens, in every --dtype; traces
    are made in batches of 8 and judged one by one. loud is the cheapest setting that text alone shows within --tokens.
    Cost and text are measured in the first --dtype.
    """
    if fpr not in (0.01, 0.001):
        raise InvalidConfig("--fpr must be 0.01 or 0.001")
    if length < trace_tokens:
        raise InvalidConfig(f"--length {length} is less than --trace-tokens {trace_tokens}")
    settings = [_setting(word, model) for word in setting or SETTINGS]
    held_out = held_out_texts(text, passages)
    placements = [
        placement_of(model, device, each, quantization, max_memory, trust_remote_code)
        for each in dict.fromkeys(dtype or ["auto"])
    ]
    sweep = _sweep(placements, settings, held_out, samples, keys, length, temperature, seed)
    target = {"trace_tokens": trace_tokens, "text_tokens": tokens, "fpr": fpr}
    done = _measured(sweep, target, placements, held_out, output_dir, resume)
    if done is None:
        return
    say(done.model_dump(mode="json"), as_json, _summary(done, output_dir))
    if done.quiet is None and done.loud is None:
        raise typer.Exit(NO_SETTING)


def _measured(
    sweep: "Sweep",
    target: dict[str, Any],
    placements: "Sequence[Placement]",
    held_out: Sequence[str],
    folder: Path,
    resume: bool,
) -> "Calibration | None":
    """What this process knows once the sweep is done: the main one everything, the others nothing."""
    from okr.commands.running import resumable, shown
    from okr.jobs.processes import joined
    from okr.jobs.store import PLAN
    from okr.tuning.runner import TASKS, calibrate
    from okr.tuning.sweep import Target

    with joined() as processes, resumable(folder / TASKS / PLAN, "calibrate"), shown(processes.main) as progress:
        return calibrate(
            sweep, Target(**target), placements, held_out, folder, resume=resume, progress=progress, processes=processes
        )


def _sweep(
    placements: "Sequence[Placement]",
    settings: Sequence[Setting],
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
            model=placements[0].model,
            dtypes=tuple(placement.dtype for placement in placements),
            quantization=placements[0].quantization,
            settings=tuple((setting.zone, setting.epsilon, setting.strength) for setting in settings),
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


def _setting(word: str, model: str) -> Setting:
    """The setting that ``word`` names or spells. Raises InvalidConfig."""
    for name, named in named_for(model).items():
        if word == name:
            return named
    zone, *numbers = word.split(":")
    try:
        epsilon, strength = (*map(float, numbers), math.inf)[:2]
        if len(numbers) not in (1, 2) or zone not in ZONES or not (epsilon >= 0 and strength > 0):
            raise ValueError
    except ValueError:
        raise InvalidConfig(
            f"--setting {word!r} is neither quiet nor loud nor ZONE:EPSILON[:STRENGTH], such as boundary:inf:1.5"
        ) from None
    return Setting(epsilon, zone, strength)  # type: ignore[arg-type]  # checked above


def held_out_texts(text: Path | None, count: int) -> list[str]:
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


def _summary(done: "Calibration", folder: Path) -> str:
    """The table of what was measured, and the two settings."""
    target, dtypes = done.target, [proof.dtype for proof in done.measured[0].traces]
    head = f"{'zone':<9}{'epsilon':>8}{'strength':>9}{'opportunities':>14}{'cost, nats/token':>30}"
    head += "".join(f"{f'trace, {dtype}':>17}{'hit rate':>10}" for dtype in dtypes)
    lines = [f"{head}{'text':>26}", *(_line(line, target.fpr) for line in done.measured)]
    lines.append(
        "trace: new tokens until 95% of the traces have p <= 0.001; text: until 95% of the texts are found at a "
        f"false-positive rate of {target.fpr:g}, extrapolated"
    )
    quiet = f"no setting is proven by traces within {target.trace_tokens} tokens: try more strength, or more tokens"
    loud = f"no setting is found by text within {target.text_tokens} tokens: try more strength, or more tokens"
    lines += [f"quiet: {_found(done.quiet) or quiet}", f"loud:  {_found(done.loud) or loud}"]
    return "\n".join([*lines, f"written to {folder}"])


def _line(line: "Measured", fpr: float) -> str:
    """The row of one setting."""
    need = line.text_at(fpr)
    cost = f"{line.cost:.4f} ({line.cost_low:.4f} to {line.cost_high:.4f})"
    traces = "".join(
        f"{proof.tokens or '-':>17}{'-' if proof.hit_rate is None else f'{proof.hit_rate:.4f}':>10}"
        for proof in line.traces
    )
    span = f"{need.tokens or '-'} ({need.low or '-'} to {need.high or 'no bound'})"
    return (
        f"{line.zone:<9}{line.epsilon:>8g}{line.strength:>9g}{line.opportunity_rate:>14.0%}{cost:>30}{traces}{span:>26}"
    )


def _found(found: "Found | None") -> str:
    """A setting as options, what it costs and how many tokens it needs; nothing where none was found."""
    if found is None:
        return ""
    cost = f"{found.cost:.4f} nats per token, 95%: {found.cost_low:.4f} to {found.cost_high:.4f}"
    return f"{found.options} ({cost}; {found.tokens} tokens)"
