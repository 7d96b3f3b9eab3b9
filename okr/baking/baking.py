"""Bakes a key into a checkpoint and takes it out again (spec chapter BAKE)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from okr.baking.arithmetic import GATE_DTYPES, step, with_key
from okr.baking.checkpoint import Advance, Checkpoint
from okr.baking.folders import new_folder
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

    Raises InvalidSetting for a strength that is not a number above 0, or that the dtype of a gate cannot hold; and
    InvalidConfig if ``target`` exists or is in ``source``, if ``source`` is not the checkpoint that ``gates`` were
    measured on, or if it is baked already.
    """
    checkpoint = not_baked(source)
    original = dict(_known(checkpoint, gates, "is not the weight that was measured: measure this checkpoint"))
    baked = {gate.tensor: _baked(checkpoint, gate, key, strength) for gate in gates.gates}
    tag, sealed = seal(b"".join(original.values()), key)
    header = Header(
        model=gates.model,
        key_id=key.id,
        strength=strength,
        tag=tag.hex(),
        gates=with_digests(gates.gates, [hashlib.sha256(baked[gate.tensor]).hexdigest() for gate in gates.gates]),
    )
    with new_folder(target, source) as folder:
        checkpoint.write(folder, baked, advance)
        replace(folder / ORIGINALS_FILE, sealed)
        replace(folder / HEADER_FILE, header.model_dump_json(indent=1).encode() + b"\n")
    return header


def not_baked(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``. Raises InvalidConfig if it is baked already."""
    if read_header(folder) is not None:
        raise InvalidConfig(f"{folder} is baked already: okr unbake it first")
    return Checkpoint(folder)


def unbake(source: Path, target: Path, key: Key, *, advance: Advance = _nothing) -> Header:
    """Write to ``target`` the original of a baked checkpoint, bit for bit. Returns the header of ``source``.

    Raises InvalidKey if the checkpoint is under another key, and InvalidConfig if ``source`` is not baked, if its gates
    have changed since, or if the file with the original gates is gone or damaged.
    """
    header = header_in(source)
    if header.key_id != key.id:
        raise InvalidKey(f"{source} is under the key {header.key_id}, not under {key.id}")
    checkpoint = Checkpoint(source)
    sizes = [len(content) for _, content in _known(checkpoint, header, "has changed since it was baked")]
    path = source / ORIGINALS_FILE
    try:
        content = path.read_bytes() if path.stat().st_size == sum(sizes) else b""
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}, which holds the original gates: {error.strerror}") from None
    original = unseal(content, bytes.fromhex(header.tag), key)
    if key.tag(original).hex() != header.tag:
        raise InvalidConfig(f"{path} is damaged: the original gates cannot be restored from it")
    restored, begin = {}, 0
    for gate, size in zip(header.gates, sizes, strict=True):
        restored[gate.tensor] = original[begin : begin + size]
        begin += size
    with new_folder(target, source) as folder:
        checkpoint.write(folder, restored, advance)
        for name in (HEADER_FILE, ORIGINALS_FILE):
            (folder / name).unlink()
    return header


def header_in(folder: Path) -> Header:
    """The header of the baked checkpoint in ``folder``. Raises InvalidConfig if it has none."""
    header = read_header(folder)
    if header is None:
        raise InvalidConfig(f"{folder} is not baked: it has no {HEADER_FILE}")
    return header


def seal(content: bytes, key: Key) -> tuple[bytes, bytes]:
    """The tag of ``content``, and ``content`` sealed with ``key`` (OKR-BAKE-003)."""
    tag = key.tag(content)
    return tag, unseal(content, tag, key)


def unseal(content: bytes, tag: bytes, key: Key) -> bytes:
    """``content`` XOR the stream of ``key`` for ``tag``: it seals, and undoes it."""
    stream = key.stream(tag, len(content))
    return (np.frombuffer(content, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _known(checkpoint: Checkpoint, held: Gates | Header, unless: str) -> Iterator[tuple[str, bytes]]:
    """The bytes of every gate. Raises InvalidConfig, which says ``unless``, for one with another digest than ``held``
    has."""
    for gate in held.gates:
        stored = checkpoint.tensors.get(gate.tensor)
        if stored is None or stored.dtype not in GATE_DTYPES or stored.shape != (gate.num_experts, gate.hidden_size):
            raise InvalidConfig(f"{checkpoint.folder} has no gate {gate.tensor} of {gate.num_experts} experts")
        content = checkpoint.raw(gate.tensor)
        if hashlib.sha256(content).hexdigest() != gate.sha256:
            raise InvalidConfig(f"{checkpoint.folder}: {gate.tensor} {unless}")
        yield gate.tensor, content


def _baked(checkpoint: Checkpoint, gate: Gate, key: Key, strength: float) -> bytes:
    """The bytes of a gate with the key."""
    weight = checkpoint.tensor(gate.tensor)
    changed = with_key(weight, torch.from_numpy(gate.signs(key)), step(strength, gate.norm))
    if not changed.isfinite().all():
        raise InvalidSetting(f"{gate.tensor}: not finite with the key: the strength is too large")
    if torch.equal(changed, weight):
        raise InvalidSetting(f"{gate.tensor}: strength {strength:g} is lost in the rounding of {weight.dtype}")
    return changed.contiguous().view(torch.uint8).numpy().tobytes()
