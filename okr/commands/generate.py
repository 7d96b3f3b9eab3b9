"""``okr generate``: text under a key, with the traces that prove it."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from okr.commands.options import (
    AsJson,
    AskedSetting,
    Device,
    Dtype,
    Epsilon,
    MaxMemory,
    Quantization,
    Remote,
    SettingOption,
    Strength,
    Zone,
    placement_of,
    say,
)
from okr.errors import InvalidConfig

if TYPE_CHECKING:
    from okr.engines.transformers import Recorder
    from okr.loaders import Loaded
    from okr.traces import Trace

SEPARATOR = "---"
"""Between several texts; what ``okr detect --separator`` can be told."""


def generate_command(
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="What each text goes on from.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="File with a prompt a line (text or .jsonl).")] = None,
    key: Annotated[
        Path | None, typer.Option(help="Key file, env:NAME or fd:N. None: no key, traces of the native routing.")
    ] = None,
    setting: SettingOption = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    traces: Annotated[Path | None, typer.Option(help="Folder for a trace a text; what is there stays.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="New tokens of each text, at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of sampling; 0 is greedy.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Texts generated at once.")] = 8,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Generate text under a key and print it; --traces keeps what `okr verify` needs to prove the key.

    Several texts are parted by lines of ---. Without a setting it is the preset's own, and quiet for a model without
    preset; `okr calibrate` measures what a model needs.
    """
    asked = AskedSetting.checked(setting, epsilon, zone, strength)
    under = None if key is None else asdict(asked.for_generation(model))
    from okr.experiment.prompts import prompts_in
    from okr.routing import Key

    given = [*(prompt or ()), *(prompts_in(prompts) if prompts else ())]
    if not given or not all(text.strip() for text in given):
        raise InvalidConfig("there is nothing to go on from: give a prompt, or --prompts FILE with one a line")
    if not math.isfinite(temperature):
        raise InvalidConfig(f"--temperature must be a number, got {temperature}")
    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    secret = None if key is None else Key.load(key)
    paths = _trace_paths(traces, len(given))
    if key is not None:
        from okr.baking.models import refuse_baked

        refuse_baked(model)
    import torch

    from okr.commands.display import counting
    from okr.engines import record, watermark
    from okr.jobs.folders import writable_folder
    from okr.jobs.loading import load_placed

    loaded = load_placed(placement)
    session: Any = record(loaded.model) if secret is None else watermark(loaded.model, secret, **(under or {}))
    done: list[tuple[str, Trace]] = []
    torch.manual_seed(seed)
    folder = nullcontext() if traces is None else writable_folder(traces)
    with folder, session as recorder, counting("texts", len(given)) as advance:
        for first in range(0, len(given), batch_size):
            made = _texts(loaded, recorder, given[first : first + batch_size], max_new_tokens, temperature)
            for path, (_, trace) in zip(paths[first:], made, strict=False):
                if path is not None:
                    trace.save(path)
            done += made
            advance(len(made))
    written = [
        {"prompt": asked, "text": text, "new_tokens": trace.new_tokens, "trace": str(path) if path else None}
        for asked, (text, trace), path in zip(given, done, paths, strict=True)
    ]
    document = {"key_id": None if secret is None else secret.id, "setting": under, "texts": written}
    say(document, as_json, f"\n{SEPARATOR}\n".join(text for text, _ in done))


def _trace_paths(folder: Path | None, count: int) -> Sequence[Path | None]:
    if folder is None:
        return [None] * count
    paths = [folder / f"{number:04d}.safetensors" for number in range(count)]
    for path in paths:
        if path.exists():
            raise InvalidConfig(f"{path} exists: choose another folder for --traces")
    return paths


def _texts(
    loaded: "Loaded", recorder: "Recorder", prompts: Sequence[str], new_tokens: int, temperature: float
) -> "list[tuple[str, Trace]]":
    """Each prompt's new text and its trace; the model's own distribution at ``temperature``, nothing cut off."""
    from okr.loaders import generation_defaults
    from okr.loaders.prompts import encode

    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    arguments = generation_defaults(loaded.model) | how | {"max_new_tokens": new_tokens, "max_length": None}
    made = recorder.generate(**encode(loaded, prompts, new_tokens), **arguments)
    return [
        (str(loaded.tokenizer.decode(trace.token_ids[trace.prompt_length :].tolist(), skip_special_tokens=True)), trace)
        for trace in made.traces
    ]
