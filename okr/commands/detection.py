"""The commands that say whether, and which, key was there: verify, detect, attribute."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from okr.commands.engines import EngineName, EngineOptions, check_engine, opened
from okr.commands.findings import NOT_FOUND, Findings, Refusals, sift
from okr.commands.options import (
    Alpha,
    AsJson,
    AskedSetting,
    Decoys,
    Device,
    Dtype,
    Epsilon,
    KeyFile,
    MaxMemory,
    Quantization,
    Remote,
    SettingOption,
    Strength,
    Zone,
    placement_of,
    say,
)
from okr.commands.passages import check_options, located
from okr.errors import InvalidKey, InvalidSetting, InvalidText, ModelLoadError
from okr.routing.named import replaced

if TYPE_CHECKING:
    from okr.baking import Header
    from okr.commands.text_files import Written
    from okr.detection import TraceVerdict
    from okr.traces import Trace

Model = Annotated[str, typer.Argument(help="The model it was made by: embedded name, preset, folder or hub id.")]
SkipPrompt = Annotated[bool, typer.Option("--skip-prompt", help="Leave out the tokens that were given.")]
Pooled = Annotated[
    bool, typer.Option("--pooled", help="Only one test of all files: was any of them made under the key?")
]


def verify_command(
    model: Model,
    traces: Annotated[
        list[Path], typer.Argument(help="Trace files, or responses of a serving engine (JSON); each judged by itself.")
    ],
    key: KeyFile,
    setting: SettingOption = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    decoys: Decoys = 999,
    alpha: Alpha = 0.001,
    skip_prompt: SkipPrompt = False,
    pooled: Pooled = False,
    by_router: Annotated[bool, typer.Option("--by-router", help="Also print a line a router.")] = False,
    passages: Annotated[bool, typer.Option("--passages", help="Also say where in each trace it shows.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="With --passages: the page of coloured texts.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    engine_name: EngineName = "transformers",
    engine_options: EngineOptions = None,
    as_json: AsJson = False,
) -> None:
    """Say whether traces were made under a key. Exit code 0: every file is watermarked, 1: not every one.

    Of several files each is a test of its own; a pooled test of all follows, which a single marked file can decide. A
    file that cannot be judged is named and costs only itself; the exit code is then 2. The spans of --passages hold
    tokens routed under the key: the chance that any span of a trace holds none is at most alpha.
    """
    asked = AskedSetting.checked(setting, epsilon, zone, strength)
    check_options(passages, pooled, html)
    baked = _baked(model)
    numbers = _numbers(asked, model, baked)
    from okr.commands.display import counting
    from okr.commands.trace_files import as_trace, read_traces
    from okr.detection import verify, verify_each
    from okr.detection.verification import check_decoys
    from okr.engines.matching import matching_sites
    from okr.routing import Key
    from okr.traces import Trace

    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    running = check_engine(engine_name, engine_options, placement)
    check_decoys(decoys, alpha)
    secret, refused = Key.load(key), Refusals()
    read = read_traces(traces, refused)
    for name, given in read:
        if isinstance(given, Trace):
            _check_setting(name, given, numbers)
    engine, loaded = opened(engine_name, running, placement, [secret], baked)
    made = sift(read, lambda given: as_trace(given, engine, loaded.model, numbers), refused)
    for name, trace in made:
        _check_setting(name, trace, numbers)
    fit = sift(made, lambda trace: (matching_sites(engine, trace), trace)[1], refused)
    names, items = [name for name, _ in fit], [trace for _, trace in fit]
    options: dict[str, Any] = numbers | {"skip_prompt": skip_prompt, "decoys": decoys, "alpha": alpha}
    if pooled:
        findings = Findings(names, (), verify(engine, items, secret, **options), refused)
    else:
        with counting("traces judged", len(items)) as advance:
            found = verify_each(engine, items, secret, **options, advance=advance)
        where = {name: value for name, value in options.items() if name != "decoys"}
        added = located(engine, loaded.tokenizer, names, items, secret, where, html) if passages else []
        findings = Findings(names, found.each, found.pooled, refused, added)
    raise typer.Exit(findings.tell(as_json, _routers if by_router else lambda verdict: ()))


def _baked(model: str) -> "Header | None":
    """The header of ``model`` if it is baked. A model that cannot be found is none: what is wrong with the other
    arguments is said first."""
    from okr.baking.models import header_of

    try:
        return header_of(model)
    except ModelLoadError:
        return None


def _numbers(asked: AskedSetting, model: str, baked: "Header | None") -> dict[str, Any]:
    """Epsilon, zone and strength in place of those in the headers of traces: those that were given, and the others of a
    ``baked`` checkpoint. None: the header's."""
    if baked is not None and asked.name is None:
        return asdict(replaced(baked.setting, **asked.numbers))
    return asked.for_traces(model)


def _check_setting(name: str, trace: "Trace", numbers: dict[str, Any]) -> None:
    """Raise InvalidSetting, with the name of the file, if neither the trace nor the command says which setting."""
    from okr.detection.evidence import trace_setting

    try:
        trace_setting(trace, **numbers)
    except InvalidSetting as error:
        raise InvalidSetting(f"{name}: {error}") from None


def _routers(verdict: "TraceVerdict") -> list[str]:
    lines = [f"{'router':<44} {'opportunities':>13} {'hit rate':>9} {'chance':>7}"]
    for site in verdict.sites:
        rates = "        -       -" if site.hit_rate is None else f"{site.hit_rate:9.3f} {site.chance_rate:7.3f}"
        lines.append(f"{site.path:<44} {site.opportunities:>13} {rates}")
    return lines


def detect_command(
    model: Model,
    texts: Annotated[
        list[Path],
        typer.Argument(help="Text files (- for standard input), a text each (see --separator), or .jsonl files."),
    ],
    key: KeyFile,
    setting: SettingOption = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    source: Annotated[
        list[Path] | None, typer.Option(help="For encoder-decoders: the file the encoder read, one for each text.")
    ] = None,
    prompt: Annotated[
        list[Path] | None, typer.Option(help="The file with what was given in front, one for each text; not judged.")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="The line that parts the texts of a file, such as ---; '' is an empty line.")
    ] = None,
    pooled: Pooled = False,
    decoys: Decoys = 99,
    alpha: Alpha = 0.01,
    temperature: Annotated[float, typer.Option(help="Temperature that the text was sampled at.")] = 1.0,
    rows: Annotated[int, typer.Option(help="Keys that run side by side; bounds the memory.")] = 16,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    engine_name: EngineName = "transformers",
    engine_options: EngineOptions = None,
    as_json: AsJson = False,
) -> None:
    """Say whether texts were written under a key, from the text alone. Exit code 0: every text is watermarked, 1: not.

    A file must hold one text as it was generated, without its prompt: texts written one after another are judged as
    one that never was, and nothing may be found. Name --separator, or a .jsonl file with {"text": ...} a line. Fewer
    than 16 tokens cannot be told. Of several texts each is a test of its own; a pooled test of all follows, which costs
    as much again and which a single marked text can decide. A file that cannot be judged is named and costs only
    itself; the exit code is then 2. Under ``accelerate launch`` the processes share the keys.
    """
    from okr.commands.text_files import check_separator, joint, tokenise

    under = AskedSetting.checked(setting, epsilon, zone, strength).for_text(model)
    check_separator(separator)
    refused = Refusals()
    written = _written(texts, source or [], prompt or [], separator, refused)
    from okr.commands.display import counting
    from okr.detection import detect
    from okr.detection.verification import check_rank_test
    from okr.jobs.processes import joined
    from okr.routing import Key

    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    running = check_engine(engine_name, engine_options, placement)
    check_rank_test(decoys, alpha)
    secret = Key.load(key)
    options: dict[str, Any] = asdict(under) | {"temperature": temperature}
    options |= {"decoys": decoys, "alpha": alpha, "rows": rows}
    with joined() as processes:
        engine, loaded = opened(engine_name, running, placement, [secret], _baked(model), processes)
        judged = sift([(text.name, text) for text in written], lambda text: tokenise(loaded, engine, text), refused)
        tests = [] if pooled else [[tokens] for _, tokens in judged]
        tests += [[tokens for _, tokens in judged]] if pooled or len(judged) > 1 else []
        passes = sum(len(tokens.pieces) for test in tests for tokens in test)
        with counting("keys scored", (decoys + 1) * passes // processes.count, shown=processes.main) as advance:
            options |= {"processes": processes, "advance": advance}
            found = [detect(engine, **joint(test), key=secret, **options) for test in tests]
    if processes.main:
        each = [] if pooled else found[: len(judged)]
        raise typer.Exit(Findings([name for name, _ in judged], each, found[-1], refused).tell(as_json))


def _written(
    texts: list[Path], sources: list[Path], prompts: list[Path], separator: str | None, refused: Refusals
) -> "list[Written]":
    """The texts of all files, each with its prompt or source. With such files a text that is refused is an error,
    since the rest would then meet each other's."""
    from okr.commands.text_files import read_texts, with_given

    paths = [(str(path), path) for path in texts]
    files = sift(paths, lambda path: read_texts(path, separator), refused, names_it=True)
    if refused and (sources or prompts):
        raise InvalidText(refused[0][1])
    written = [text for _, found in files for text in found]
    for name, given in (("source", sources), ("prompt", prompts)):
        parts = [part.text for path in given for part in read_texts(path, separator)]
        written = with_given(written, name, parts)
    return written


def attribute_command(
    model: Model,
    traces: Annotated[
        list[Path], typer.Argument(help="Trace files, or responses of a serving engine (JSON); together one test.")
    ],
    key: Annotated[
        list[Path], typer.Option("--key", help="Key file, env:NAME or fd:N; repeat it, or name a folder of key files.")
    ],
    setting: SettingOption = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    alpha: Annotated[float, typer.Option(help="Chance of naming a key that had no part, at most.")] = 0.01,
    skip_prompt: SkipPrompt = False,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    engine_name: EngineName = "transformers",
    engine_options: EngineOptions = None,
    as_json: AsJson = False,
) -> None:
    """Say which of several keys traces were made under, if any. Exit code 0: one was found, 1: none.

    Several traces are one test: the key that is named had a part in at least one of them.
    """
    asked = AskedSetting.checked(setting, epsilon, zone, strength)
    baked = _baked(model)
    numbers = _numbers(asked, model, baked)
    from okr.commands.display import counting
    from okr.commands.trace_files import as_trace, read_traces
    from okr.detection import attribute
    from okr.detection.verification import check_alpha
    from okr.routing import Key

    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    running = check_engine(engine_name, engine_options, placement)
    files = [file for path in key for file in (_key_files(path) if path.is_dir() else [path])]
    check_alpha(alpha)
    keys = [Key.load(file) for file in files]
    read = read_traces(traces, Refusals())
    engine, loaded = opened(engine_name, running, placement, keys, baked)
    items = [as_trace(given, engine, loaded.model, numbers) for _, given in read]
    with counting("keys judged", len(keys)) as advance:
        found = attribute(
            engine,
            items,
            keys,
            **numbers,
            alpha=alpha,
            skip_prompt=skip_prompt,
            advance=advance,
        )
    together = f"{len(items)} traces as one test, made at least in part under: " if len(items) > 1 else ""
    say(found.as_dict(), as_json, f"{together}{found}")
    if found.key_id is None:
        raise typer.Exit(NOT_FOUND)


def _key_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InvalidKey(f"the folder {folder} holds no key file (*.json)")
    return files
