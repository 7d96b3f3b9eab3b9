"""Reads a checkpoint's safetensors files by the bytes, and writes a copy in which some tensors differ."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from okr.baking.arithmetic import GATE_DTYPES
from okr.errors import InvalidConfig

log = logging.getLogger("okr")

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_SUFFIX = ".safetensors"
_WEIGHTS = (_SUFFIX, ".bin", ".pth", ".pt", ".gguf", ".ckpt", ".h5", ".msgpack", ".ot", ".npz", ".onnx", ".onnx_data")
_LEFT_OUT = (*_WEIGHTS, ".index.json")
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its dtype by its name in safetensors, its shape, and where its bytes begin and end."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Checkpoint:
    """The safetensors files of one folder. ``tensors`` says where each tensor lies; ``files`` are their names.

    Raises InvalidConfig for a folder without such files, with files missing, with damaged ones, or with a tensor that
    two files hold.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        named = _index(folder)
        self.files = sorted(set(named.values())) if named else [SINGLE]
        self.tensors: dict[str, Stored] = {}
        for file in self.files:
            found = _tensors(folder, file)
            for name in sorted(found.keys() & self.tensors.keys()):
                raise InvalidConfig(f"{folder}: {name} is in {self.tensors[name].file} and in {file}")
            self.tensors |= found
        for name, file in sorted(named.items()):
            if name not in self.tensors or self.tensors[name].file != file:
                raise InvalidConfig(f"{folder / file} lacks {name}, which {INDEX} promises")

    def raw(self, name: str) -> bytes:
        """The bytes of a tensor."""
        stored = self.tensors[name]
        with (self.folder / stored.file).open("rb") as file:
            file.seek(stored.begin)
            return file.read(stored.end - stored.begin)

    def tensor(self, name: str) -> Tensor:
        """A tensor of one of the dtypes that gates have."""
        stored = self.tensors[name]
        flat = torch.frombuffer(bytearray(self.raw(name)), dtype=GATE_DTYPES[stored.dtype])
        return flat.reshape(stored.shape)

    def others(self) -> tuple[list[Path], list[Path]]:
        """The files beside these, relative to the folder: those that a copy keeps, and those that it leaves out. Left
        out are weights in other files, which may hold other gates, Git's store and links to folders."""
        kept: list[Path] = []
        left: list[Path] = []
        for name, folders, files in os.walk(self.folder, onerror=_refuse):
            place = Path(name).relative_to(self.folder)
            known = {*self.files, INDEX} if name == str(self.folder) else set()
            barred = {each for each in folders if each == ".git" or Path(name, each).is_symlink()}
            folders[:] = [each for each in folders if each not in barred]
            left += [place / each for each in barred]
            for each in set(files) - known:
                (left if each.lower().endswith(_LEFT_OUT) else kept).append(place / each)
        return sorted(kept), sorted(left)

    def size(self) -> int:
        """Bytes of the files that :meth:`write` copies."""
        return sum((self.folder / file).stat().st_size for file in self.files)

    def write(self, folder: Path, changed: Mapping[str, bytes], advance: Advance = lambda count: None) -> None:
        """Copy the checkpoint into ``folder``, with other bytes for the tensors in ``changed``. Every other byte is the
        original's. ``advance`` is called with the size of each file that is done. Files that are left out are logged.
        """
        kept, left = self.others()
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            log.warning(
                "%s: not copied, as they may hold other gates: %s%s", self.folder, ", ".join(map(str, left[:3])), more
            )
        for place in kept:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / place, folder / place)
        if (self.folder / INDEX).is_file():
            shutil.copyfile(self.folder / INDEX, folder / INDEX)
        for name in self.files:
            shutil.copyfile(self.folder / name, folder / name)
            with (folder / name).open("r+b") as file:
                for tensor, content in changed.items():
                    stored = self.tensors[tensor]
                    if stored.file == name:
                        file.seek(stored.begin)
                        file.write(content)
                file.flush()
                os.fsync(file.fileno())
            advance((folder / name).stat().st_size)


def _refuse(error: OSError) -> None:
    raise error


def _index(folder: Path) -> dict[str, str]:
    """The file of every tensor, by the index; empty where there is none."""
    path = folder / INDEX
    if not path.is_file():
        if (folder / SINGLE).is_file():
            return {}
        others = sorted(path.name for path in folder.glob("*") if path.name.endswith(_WEIGHTS))
        beside = f"; {others[0]} is not read: convert the checkpoint to safetensors first" if others else ""
        raise InvalidConfig(f"{folder} has neither {SINGLE} nor {INDEX}{beside}")
    try:
        found: Any = json.loads(path.read_bytes())["weight_map"]
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found or not all(map(_plain, found.values())):
        raise InvalidConfig(f"{path} is damaged: it maps no tensors to safetensors files of this folder")
    for name in sorted(set(found.values())):
        if not os.path.isfile(folder / name):  # noqa: PTH113 - pathlib raises on some names
            raise InvalidConfig(f"{folder / name} is missing, although {INDEX} names it")
    return found


def _plain(name: Any) -> bool:
    """Whether ``name`` is the name of a safetensors file in no other folder."""
    return isinstance(name, str) and name.isprintable() and name.endswith(_SUFFIX) and Path(name).name == name


def _tensors(folder: Path, name: str) -> dict[str, Stored]:
    """Where each tensor of a file lies. safetensors checks the header first: sizes, offsets and the end of the file."""
    path = folder / name
    try:
        with safe_open(path, "pt"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path} is no whole safetensors file: {' '.join(str(error).split())}") from None
    start = 8 + length
    header.pop("__metadata__", None)
    return {
        tensor: Stored(name, said["dtype"], tuple(said["shape"]), *(start + offset for offset in said["data_offsets"]))
        for tensor, said in header.items()
    }
