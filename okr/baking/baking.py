"""Bakes a key into a checkpoint and takes it out again (spec chapter BAKE)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from okr.baking.arithmetic import GATE_DTYPES, step, with_key
from okr.baking.checkpoint import Advance, Checkpoint, new_folder
from okr.baking.header import HEADER_FILE, Gate, Gates, Header, read_header, with_digests
from okr.errors import InvalidConfig, InvalidKey, InvalidSetting
from okr.files import replace
from okr.routing import Key

ORIGINALS_FILE = "okr.originals"
_nothing: Advance = lambda count: None  # noqa: E731


def bake(source: Path, target: Path, key: Key, gates: Gates, strength: float, *, advance: Advance = _nothing) -> Header:
    """Write to ``target`` the checkpoint in ``source`` with ``key`` added to its gates.

    Nothing else changes, but that ``okr.json`` (the header) and ``okr.originals`` (the original gates, sealed with the
    key) stand beside the weights. ``target`` appears whole or not at all. The memory that it takes is that of the
    gates. The same arguments give the same bytes. ``advance`` is called with the bytes of each file that is done.

    Raises InvalidSetting for a strength that is not a number above 0, and InvalidConfig if ``target`` exists, if
    ``source`` is not the checkpoint that ``gates`` were measured on, or if it is baked already.
    """
    if not 0 < strength < float("inf"):
        raise InvalidSetting(f"strength must be a number above 0, got {strength}: a hard zone cannot be baked")
    if read_header(source) is not None:
        raise InvalidConfig(f"{source} is baked already: okr unbake it first")
    checkpoint = Checkpoint(source)
    original = dict(_originals(checkpoint, gates))
    baked = {gate.tensor: _baked(checkpoint, gate, key, strength) for gate in gates.gates}
    tag, sealed = seal(b"".join(original.values()), key)
    header = Header(
        model=gates.model,
        key_id=key.id,
        strength=strength,
        tag=tag.hex(),
        gates=with_digests(gates.gates, [hashlib.sha256(baked[gate.tensor]).hexdigest() for gate in gates.gates]),
    )
    with new_folder(target) as folder:
        checkpoint.write(folder, baked, advance)
        replace(folder / ORIGINALS_FILE, sealed)
        replace(folder / HEADER_FILE, header.model_dump_json(indent=1).encode() + b"\n")
    return header


def unbake(source: Path, target: Path, key: Key, *, advance: Advance = _nothing) -> Header:
    """Write to ``target`` the original of a baked checkpoint, bit for bit. Returns the header of ``source``.

    Raises InvalidKey if the checkpoint is under another key, and InvalidConfig if ``source`` is not baked, if its gates
    have changed since, or if the file with the original gates is gone or damaged.
    """
    header = read_header(source)
    if header is None:
        raise InvalidConfig(f"{source} is not baked: it has no {HEADER_FILE}")
    if header.key_id != key.id:
        raise InvalidKey(f"{source} is under the key {header.key_id}, not under {key.id}")
    checkpoint = Checkpoint(source)
    sizes = [len(content) for _, content in _originals(checkpoint, header)]
    try:
        content = (source / ORIGINALS_FILE).read_bytes()
    except OSError as error:
        raise InvalidConfig(f"cannot read {source / ORIGINALS_FILE}, the original gates: {error.strerror}") from None
    original = unseal(content, bytes.fromhex(header.tag), key)
    if len(content) != sum(sizes) or key.tag(original).hex() != header.tag:
        raise InvalidConfig(f"{source / ORIGINALS_FILE} is damaged: the original gates cannot be restored from it")
    restored, begin = {}, 0
    for gate, size in zip(header.gates, sizes, strict=True):
        restored[gate.tensor] = original[begin : begin + size]
        begin += size
    with new_folder(target) as folder:
        checkpoint.write(folder, restored, advance)
        for name in (HEADER_FILE, ORIGINALS_FILE):
            (folder / name).unlink()
    return header


def seal(content: bytes, key: Key) -> tuple[bytes, bytes]:
    """The tag of ``content``, and ``content`` sealed with ``key`` (OKR-BAKE-003)."""
    tag = key.tag(content)
    return tag, unseal(content, tag, key)


def unseal(content: bytes, tag: bytes, key: Key) -> bytes:
    """``content`` XOR the stream of ``key`` for ``tag``: it seals, and undoes it."""
    stream = key.stream(tag, len(content))
    return (np.frombuffer(content, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _originals(checkpoint: Checkpoint, held: Gates | Header) -> Iterator[tuple[str, bytes]]:
    """The bytes of every gate, which must be those of the digests in ``held``."""
    for gate in held.gates:
        stored = checkpoint.tensors.get(gate.tensor)
        if stored is None or stored.dtype not in GATE_DTYPES or stored.shape != (gate.num_experts, gate.hidden_size):
            raise InvalidConfig(f"{checkpoint.folder} has no gate {gate.tensor} of {gate.num_experts} experts")
        content = checkpoint.raw(gate.tensor)
        if hashlib.sha256(content).hexdigest() != gate.sha256:
            raise InvalidConfig(
                f"{checkpoint.folder}: {gate.tensor} is not the weight that the file on its gates knows"
            )
        yield gate.tensor, content


def _baked(checkpoint: Checkpoint, gate: Gate, key: Key, strength: float) -> bytes:
    """The bytes of a gate with the key."""
    weight = checkpoint.tensor(gate.tensor)
    changed = with_key(weight, torch.from_numpy(gate.signs(key)), step(strength, gate.norm))
    return changed.contiguous().view(torch.uint8).numpy().tobytes()
