"""``okr bake``, ``okr unbake`` and ``okr inspect``: a key in the weights of a checkpoint."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okr.commands.calibrate import held_out_texts
from okr.commands.findings import NOT_FOUND
from okr.commands.options import Alpha, AsJson, Decoys, Device, Dtype, KeyFile, MaxMemory, Remote, placement_of, say
from okr.errors import InvalidConfig
from okr.experiment.presets import named_for
from okr.routing.named import SETTINGS

if TYPE_CHECKING:
    from okr.baking import Checkpoint, Gates
    from okr.jobs.placement import Placement

PASSAGES = 16
Target = Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")]


def bake_command(
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id.")],
    out: Target,
    key: KeyFile,
    strength: Annotated[float | None, typer.Option(help="Weight of the key score. None: that of --setting.")] = None,
    setting: Annotated[str, typer.Option(help="quiet or loud.")] = "quiet",
    text: Annotated[Path | None, typer.Option(help="Text to measure on, a passage a line; none: shipped ones.")] = None,
    norms: Annotated[
        Path | None, typer.Option(help="File of what is measured: written if it does not exist, else read.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Write a copy of a checkpoint whose gates carry a key, for any engine that can run the original.

    The model is loaded once to measure its routers' inputs, unless --norms names a file where that is written. Shards,
    dtypes, tokenizer and all other files stay as they are. okr.json in the new folder says which key it is under; the
    secret is nowhere in it.
    """
    from okr.baking import bake
    from okr.baking.baking import not_baked
    from okr.baking.folders import check_new
    from okr.baking.models import checkpoint_folder, model_name
    from okr.commands.display import counting
    from okr.routing import Key

    if setting not in SETTINGS:
        raise InvalidConfig(f"--setting must be {' or '.join(SETTINGS)}, got {setting!r}")
    chosen = named_for(model)[setting].strength if strength is None else strength
    if not 0 < chosen < float("inf"):
        raise InvalidConfig(f"--strength must be a number above 0, got {chosen}: a hard zone cannot be baked")
    placement = placement_of(model, device, dtype, None, max_memory, trust_remote_code)
    secret = Key.load(key)
    folder = checkpoint_folder(model)
    check_new(out, folder)
    checkpoint = not_baked(folder)
    gates = _gates(placement, checkpoint, model_name(model), text, norms)
    with counting("bytes written", checkpoint.size()) as advance:
        header = bake(folder, out, secret, gates, chosen, advance=advance)
    shown = {"key_id": header.key_id, "strength": header.strength, "gates": len(header.gates), "path": str(out)}
    words = f"{out}: {len(header.gates)} gates carry the key {header.key_id} at strength {header.strength:g}"
    say(shown, as_json, words)


def _gates(
    placement: "Placement", checkpoint: "Checkpoint", name: str, text: Path | None, norms: Path | None
) -> "Gates":
    """What is known of the gates of the model ``name``: read from the file ``norms`` if it exists, else measured."""
    from okr.baking import Gates, measure, texts_of
    from okr.baking.header import parsed
    from okr.commands.display import counting
    from okr.engines import prepare
    from okr.files import replace
    from okr.jobs.loading import load_placed

    if norms is not None and os.path.lexists(norms):
        return parsed(norms, Gates)
    passages = held_out_texts(text, PASSAGES)
    loaded = load_placed(placement.model_copy(update={"model": str(checkpoint.folder)}))
    with counting("passages read", len(passages)) as advance:
        found = measure(prepare(loaded.model), checkpoint, name, texts_of(loaded, passages), advance=advance)
    if norms is not None:
        try:
            replace(norms, found.model_dump_json(indent=1).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise InvalidConfig(f"cannot write {norms}: {getattr(error, 'strerror', None) or error}") from None
    return found


def unbake_command(
    model: Annotated[Path, typer.Argument(help="Folder of a baked checkpoint.")],
    out: Target,
    key: KeyFile,
    as_json: AsJson = False,
) -> None:
    """Write the original of a baked checkpoint, bit for bit; it takes the key."""
    from okr.baking import Checkpoint, unbake
    from okr.baking.baking import header_in
    from okr.commands.display import counting
    from okr.routing import Key

    secret = Key.load(key)
    header_in(model)
    with counting("bytes written", Checkpoint(model).size()) as advance:
        header = unbake(model, out, secret, advance=advance)
    shown = {"key_id": header.key_id, "gates": len(header.gates), "path": str(out)}
    say(shown, as_json, f"{out}: the original of {model}, without the key {header.key_id}")


def inspect_command(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint, from whomever.")],
    key: KeyFile,
    header: Annotated[
        Path | None, typer.Option(help="The okr.json of the baked checkpoint, if this one lacks it.")
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="The original, before any key: a weaker trace is found then.")
    ] = None,
    decoys: Decoys = 999,
    alpha: Alpha = 0.001,
    by_gate: Annotated[bool, typer.Option("--by-gate", help="Also print a line a gate.")] = False,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Say whether the weights of a checkpoint carry a key. Exit code 0: they do, 1: not. No model is run.

    It finds the key in a checkpoint that was trained on, or quantised beside its gates. Where experts were permuted or
    pruned give --original, and for pruned ones --header too.
    """
    from okr.baking import find_gates, inspect
    from okr.baking.baking import not_baked
    from okr.baking.header import Header, parsed, read_header
    from okr.baking.models import checkpoint_folder
    from okr.detection.verification import check_alpha
    from okr.routing import Key

    check_alpha(alpha)
    if decoys < 1:
        raise InvalidConfig(f"--decoys must be 1 or more, got {decoys}")
    secret = Key.load(key)
    folder = checkpoint_folder(checkpoint)
    known = read_header(folder) if header is None else parsed(header, Header)
    gates = find_gates(folder, trust_remote_code=trust_remote_code) if known is None else list(known.gates)
    before = None if original is None else not_baked(checkpoint_folder(original)).folder
    found = inspect(folder, secret, gates, original=before, decoys=decoys, alpha=alpha)
    lines = [str(found)]
    if by_gate:
        lines += [f"{'gate':<60} {'experts':>7} {'z':>7}"]
        lines += [f"{gate.tensor:<60} {gate.num_experts:>7} {gate.z:>7.2f}" for gate in found.gates]
    say(found.as_dict(), as_json, "\n".join(lines))
    if not found.carried:
        raise typer.Exit(NOT_FOUND)
