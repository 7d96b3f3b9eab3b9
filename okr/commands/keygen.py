"""``okr keygen`` and ``okr inspect-key``: a secret key in a file, and how often it is found where it was not used."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okr.commands.options import AsJson, Device, Dtype, MaxMemory, Quantization, Remote, placement_of, say
from okr.errors import InvalidConfig

if TYPE_CHECKING:
    from okr.jobs.placement import Placement
    from okr.routing import Key
    from okr.tuning.native_rates import NativeRate

FAILS = 1
DRAWN = 8  # keys that are judged side by side, of which the first that passes is kept
TRACES = 192

For = Annotated[str | None, typer.Option("--for", help="Model on whose native traces the key is judged.")]
Text = Annotated[Path | None, typer.Option(help="Text to judge it on, a passage a line; none: shipped passages.")]


def keygen_command(
    path: Annotated[Path, typer.Argument(help="Where to write the key file (never overwritten).")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Derive it from a passphrase, asked for.")] = False,
    for_model: For = None,
    text: Text = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Make a secret key and save it in a file that only you can read.

    With --for, keys are drawn until one is found in native traces of that model no more often than its p-values say;
    the key file says what was seen.
    """
    from okr.routing.keys import Key

    if for_model is None:
        if text is not None:
            raise InvalidConfig("--text is what a key is judged on: say for which model, with --for")
        key = Key.from_passphrase(_ask_passphrase()) if passphrase else Key.generate()
        key.save(path)
        say({"key_id": key.id, "path": str(path)}, as_json, f"key {key.id} saved in {path}")
        return
    if passphrase:
        raise InvalidConfig("--for draws keys until one passes: it cannot go with --passphrase (see okr inspect-key)")
    if path.exists():
        raise InvalidConfig(f"{path} exists; a key file is never overwritten")
    placement = placement_of(for_model, device, dtype, quantization, max_memory, trust_remote_code)
    keys = [Key.generate() for _ in range(DRAWN)]
    rates = _judged(keys, placement, text)
    tried = next((number for number, rate in enumerate(rates, 1) if rate.passes()), None)
    if tried is None:
        raise InvalidConfig(
            f"none of {DRAWN} keys passes: {rates[0]}; judge in the dtype and engine that serve the model"
        )
    key, rate = keys[tried - 1], rates[tried - 1]
    key.save(path, native_rate=rate.model_dump(mode="json") | {"tried": tried})
    words = f"key {key.id} saved in {path}, the {_ordinal(tried)} that was tried; {rate}"
    say(
        {"key_id": key.id, "path": str(path), "tried": tried, "native_rate": rate.model_dump(mode="json")},
        as_json,
        words,
    )


def inspect_key_command(
    key: Annotated[Path, typer.Argument(help="Key file (see okr keygen), env:NAME or fd:N.")],
    for_model: For = None,
    text: Text = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Say a key's id and, with --for, how often it is found in native traces of that model. Exit code 1: too often."""
    from okr.routing.keys import Key

    secret = Key.load(key)
    if for_model is None:
        if text is not None:
            raise InvalidConfig("--text is what a key is judged on: say for which model, with --for")
        say({"key_id": secret.id}, as_json, f"key {secret.id}")
        return
    placement = placement_of(for_model, device, dtype, quantization, max_memory, trust_remote_code)
    (rate,) = _judged([secret], placement, text)
    passes = rate.passes()
    words = f"key {secret.id} {'passes' if passes else 'is found too often'}; {rate}"
    say({"key_id": secret.id, "passes": passes, "native_rate": rate.model_dump(mode="json")}, as_json, words)
    if not passes:
        raise typer.Exit(FAILS)


def _judged(keys: "Sequence[Key]", placement: "Placement", text: Path | None) -> "list[NativeRate]":
    """The rates of ``keys`` on native traces of the model."""
    from okr.commands.calibrate import held_out_texts
    from okr.commands.display import counting
    from okr.experiment.presets import named_for
    from okr.jobs.loading import load_placed
    from okr.tuning.native_rates import native_rates

    texts = held_out_texts(text, TRACES)
    loaded = load_placed(placement)
    with counting("native traces", len(texts)) as advance:
        return native_rates(loaded, keys, named_for(placement.model)["quiet"], texts, advance=advance)


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _ask_passphrase() -> str:
    """Asked for twice without echo at a terminal; else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True))
