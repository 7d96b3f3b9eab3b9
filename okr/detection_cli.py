"""The commands that say whether, and which, key was there: verify, detect, attribute."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okr.cli_options import Alpha, AsJson, Decoys, Epsilon, KeyFile, Remote, Strength, Zone, check_setting, say
from okr.errors import InvalidKey, InvalidText

if TYPE_CHECKING:
    from okr.detection import TraceVerdict
    from okr.loaders import Loaded

NOT_WATERMARKED = 1

Model = Annotated[str, typer.Argument(help="The model it was made by: embedded name, preset, folder or hub id.")]
Traces = Annotated[list[Path], typer.Argument(help="Trace files; several are one pooled test.")]
Quantized = Annotated[str | None, typer.Option("--quantization", help="8bit or 4bit, as when it was made.")]
SkipPrompt = Annotated[bool, typer.Option("--skip-prompt", help="Leave out the tokens that were given.")]


def verify_command(
    model: Model,
    traces: Traces,
    key: KeyFile,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    decoys: Decoys = 999,
    alpha: Alpha = 0.001,
    skip_prompt: SkipPrompt = False,
    by_router: Annotated[bool, typer.Option("--by-router", help="Also print a line a router.")] = False,
    quantization: Quantized = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Say whether traces were made under a key. Exit code 0: watermarked, 1: not."""
    check_setting(epsilon, zone, strength)
    from okr.detection import verify
    from okr.loaders import load
    from okr.routing import Key
    from okr.traces import Trace

    secret = Key.load(key)
    items = [Trace.load(path) for path in traces]
    loaded = load(model, quantization=quantization, trust_remote_code=trust_remote_code)
    verdict = verify(
        loaded.model,
        items,
        secret,
        decoys=decoys,
        alpha=alpha,
        epsilon=epsilon,
        zone=zone,  # type: ignore[arg-type]  # checked above
        strength=strength,
        skip_prompt=skip_prompt,
    )
    say(verdict.as_dict(), as_json, "\n".join([str(verdict), *(_routers(verdict) if by_router else ())]))
    if not verdict.watermarked:
        raise typer.Exit(NOT_WATERMARKED)


def _routers(verdict: "TraceVerdict") -> list[str]:
    lines = [f"{'router':<44} {'opportunities':>13} {'hit rate':>9} {'chance':>7}"]
    for site in verdict.sites:
        rates = "        -       -" if site.hit_rate is None else f"{site.hit_rate:9.3f} {site.chance_rate:7.3f}"
        lines.append(f"{site.path:<44} {site.opportunities:>13} {rates}")
    return lines


def detect_command(
    model: Model,
    texts: Annotated[list[Path], typer.Argument(help="Text files (- for standard input); several are one test.")],
    key: KeyFile,
    epsilon: Annotated[float, typer.Option(help="The watermark's epsilon; inf is allowed.")],
    zone: Annotated[str, typer.Option(help="The watermark's zone: max or boundary.")] = "max",
    strength: Annotated[float, typer.Option(help="The watermark's strength; inf is allowed.")] = float("inf"),
    source: Annotated[
        list[Path] | None, typer.Option(help="For encoder-decoders: the file the encoder read, one for each text.")
    ] = None,
    prompt: Annotated[
        list[Path] | None, typer.Option(help="The file with what was given in front, one for each text; not judged.")
    ] = None,
    decoys: Decoys = 99,
    alpha: Alpha = 0.01,
    temperature: Annotated[float, typer.Option(help="Temperature that the text was sampled at.")] = 1.0,
    rows: Annotated[int, typer.Option(help="Keys that run side by side; bounds the memory.")] = 16,
    quantization: Quantized = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Say whether texts were written under a key, from the text alone. Exit code 0: watermarked, 1: not.

    Under ``accelerate launch`` the processes share the keys.
    """
    check_setting(epsilon, zone, strength)
    contents, sources, prompts = ([_read(path) for path in paths or ()] for paths in (texts, source, prompt))
    from okr.detection import detect
    from okr.detection.verification import check_decoys
    from okr.experiment.display import counting
    from okr.experiment.processes import joined
    from okr.loaders import load
    from okr.routing import Key

    check_decoys(decoys, alpha)
    secret = Key.load(key)
    with joined() as processes:
        loaded = load(model, quantization=quantization, trust_remote_code=trust_remote_code)
        tokens, given, lengths = _tokens(loaded, contents, sources, prompts)
        with counting("keys scored", (decoys + 1) * len(tokens) // processes.count, shown=processes.main) as advance:
            verdict = detect(
                loaded.model,
                tokens,
                secret,
                epsilon=epsilon,
                zone=zone,  # type: ignore[arg-type]  # checked above
                strength=strength,
                prompt_length=lengths,
                source_ids=given or None,
                decoys=decoys,
                alpha=alpha,
                temperature=temperature,
                rows=rows,
                advance=advance,
            )
    if processes.main:
        say(verdict.as_dict(), as_json, str(verdict))
    if processes.main and not verdict.watermarked:
        raise typer.Exit(NOT_WATERMARKED)


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidText(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidText(f"{path} is not UTF-8 text") from None


def _tokens(
    loaded: "Loaded", texts: list[str], sources: list[str], prompts: list[str]
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Token ids of every text with its prompt, those that the encoder read, and how many tokens were given.

    Without prompts, texts beyond the model's positions become several.
    """
    from okr.loaders import generation_defaults

    config, tokenizer = loaded.model.config, loaded.tokenizer
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    if config.is_encoder_decoder:
        if prompts:
            raise InvalidText("--prompt is for decoder-only models; name what the encoder read with --source")
        start = generation_defaults(loaded.model)["decoder_start_token_id"]
        return [[start, *ids] for ids in written], [tokenizer(text)["input_ids"] for text in sources], [0] * len(texts)
    if sources:
        raise InvalidText("--source is for encoder-decoders; this model has no encoder")
    if prompts:
        if len(prompts) != len(texts):
            raise InvalidText(f"--prompt is needed once for each text: {len(texts)} texts, {len(prompts)} prompts")
        if not all(written):
            raise InvalidText("an empty text says nothing")
        given = [tokenizer(text)["input_ids"] for text in prompts]
        return [a + b for a, b in zip(given, written, strict=True)], [], [len(ids) for ids in given]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = getattr(config, "max_position_embeddings", None) or sys.maxsize
    pieces: list[list[int]] = []
    for ids in written:
        parts = [bos + ids[first : first + room - 1] for first in range(0, len(ids), room - 1)]
        pieces += [part for part in parts if len(part) > 1] or [bos + ids]
    return pieces, [], [0] * len(pieces)


def attribute_command(
    model: Model,
    traces: Traces,
    key: Annotated[
        list[Path], typer.Option("--key", help="Key file, env:NAME or fd:N; repeat it, or name a folder of key files.")
    ],
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    alpha: Annotated[float, typer.Option(help="Chance of naming a key that had no part, at most.")] = 0.01,
    skip_prompt: SkipPrompt = False,
    quantization: Quantized = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Say which of several keys traces were made under, if any. Exit code 0: one was found, 1: none."""
    check_setting(epsilon, zone, strength)
    from okr.detection import attribute
    from okr.detection.attribution import images_needed
    from okr.experiment.display import counting
    from okr.loaders import load
    from okr.routing import Key
    from okr.traces import Trace

    files = [file for path in key for file in (_key_files(path) if path.is_dir() else [path])]
    images_needed(len(files), alpha)
    keys = [Key.load(file) for file in files]
    items = [Trace.load(path) for path in traces]
    loaded = load(model, quantization=quantization, trust_remote_code=trust_remote_code)
    with counting("keys judged", len(keys)) as advance:
        found = attribute(
            loaded.model,
            items,
            keys,
            epsilon=epsilon,
            zone=zone,  # type: ignore[arg-type]  # checked above
            strength=strength,
            alpha=alpha,
            skip_prompt=skip_prompt,
            advance=advance,
        )
    say(found.as_dict(), as_json, str(found))
    if found.key_id is None:
        raise typer.Exit(NOT_WATERMARKED)


def _key_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InvalidKey(f"the folder {folder} holds no key file (*.json)")
    return files
