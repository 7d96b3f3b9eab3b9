"""Reads a checkpoint's safetensors files by the bytes, and writes a copy in which some tensors differ."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from okr.baking.arithmetic import GATE_DTYPES
from okr.errors import InvalidConfig

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
OTHER_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf", ".ckpt", ".h5", ".msgpack", ".onnx")
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

    Raises InvalidConfig for a folder without such files, with files missing, or with damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        named = _index(folder)
        self.files = sorted(set(named.values())) if named else [SINGLE]
        self.tensors = {name: stored for file in self.files for name, stored in _tensors(folder, file).items()}
        lost = sorted(set(named) - set(self.tensors))
        if lost:
            raise InvalidConfig(f"{folder / named[lost[0]]} lacks {lost[0]}, which {INDEX} promises")

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

    def others(self) -> list[Path]:
        """What the folder holds beside these files, weights in other formats left out."""
        known = {*self.files, INDEX}
        return sorted(
            path for path in self.folder.iterdir() if path.name not in known and not path.name.endswith(OTHER_WEIGHTS)
        )

    def size(self) -> int:
        """Bytes of the files that :meth:`write` copies."""
        return sum((self.folder / file).stat().st_size for file in self.files)

    def write(self, folder: Path, changed: Mapping[str, bytes], advance: Advance = lambda count: None) -> None:
        """Copy the checkpoint into ``folder``, with other bytes for the tensors in ``changed``. Every other byte is the
        original's. ``advance`` is called with the size of each file that is done."""
        for path in self.others():
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, folder / path.name)
        if (self.folder / INDEX).exists():
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


def _index(folder: Path) -> dict[str, str]:
    """The file of every tensor, by the index; empty where there is none."""
    path = folder / INDEX
    if not path.exists():
        if (folder / SINGLE).exists():
            return {}
        others = sorted(path.name for path in folder.glob("*") if path.name.endswith(OTHER_WEIGHTS))
        beside = f"; {others[0]} is not read: convert the checkpoint to safetensors first" if others else ""
        raise InvalidConfig(f"{folder} has neither {SINGLE} nor {INDEX}{beside}")
    try:
        found: Any = json.loads(path.read_bytes())["weight_map"]
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    plain = isinstance(found, dict) and found and all(isinstance(name, str) for name in found.values())
    if not plain or any(Path(name).name != name for name in found.values()):
        raise InvalidConfig(f"{path} is damaged: it maps no tensors to files of this folder")
    missing = next((name for name in sorted(set(found.values())) if not (folder / name).is_file()), None)
    if missing is not None:
        raise InvalidConfig(f"{folder / missing} is missing, although {INDEX} names it")
    return dict(found)


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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write in that takes the name ``path`` when the block ends. It appears whole or not at all, and a
    killed process leaves nothing under that name; what it left is removed by the next.

    Raises InvalidConfig if ``path`` exists or cannot be made.
    """
    part = path.parent / f".{path.name}.part"
    try:
        if os.path.lexists(path):
            raise InvalidConfig(f"{path} exists: name a folder that does not")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise InvalidConfig(f"cannot write {path}: {error.strerror or error}") from None
