"""Turns an error while a model is loaded or run into one line that says what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from okr.errors import OutOfMemory

_LIMIT = 300  # the most characters shown of another library's message
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # how cards, Windows and Linux say it


def one_line(text: object) -> str:
    """``text`` on one line of at most 300 characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LIMIT else line[: _LIMIT - 3] + "..."


def root_message(error: BaseException) -> str:
    """The message of the first error in a chain of exceptions, on one line, or its type if it has no message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def out_of_memory(
    error: BaseException, *, doing: str, batch_size: int | None = None, max_length: int | None = None
) -> OutOfMemory:
    """The OutOfMemory error to raise instead of ``error``. Its message says what was being done (``doing``), with which
    batch size and length (tokens), and what helps."""
    facts = []
    if batch_size is not None:
        facts.append(f"batch size {batch_size}")
    if max_length is not None:
        facts.append(f"max length {max_length}")
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", str(error))
    if asked:
        facts.append(f"{asked[1]} more were asked for")
    card = re.search(
        r"total capacity of ([\d.]+ ?[KMGT]?i?B)(?: of which ([\d.]+ ?[KMGT]?i?B|\d+ bytes) is free)?", str(error)
    )
    if card:
        facts.append(f"the card has {card[1]}" + (f", {card[2]} free" if card[2] else ""))
    figures = f" ({'; '.join(facts)})" if facts else ""
    return OutOfMemory(
        f"out of memory while {doing}{figures}: lower the batch size or the maximum "
        "length, load the model quantised (8bit or 4bit), or cap the card with max_memory such as {0: '70GiB'} and "
        "device_map='auto' so that the rest goes to host memory"
    )


@contextmanager
def memory_guard(doing: str, *, batch_size: int | None = None, max_length: int | None = None) -> Iterator[None]:
    """Raise :class:`okr.errors.OutOfMemory` with advice if the block runs out of memory. The arguments are those of
    :func:`out_of_memory`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = out_of_memory(error, doing=doing, batch_size=batch_size, max_length=max_length)
    else:
        return
    # Raised outside the handler, without a cause, because the original's traceback would keep its tensors alive.
    raise failure


def weights_fault(folder: str) -> str | None:
    """What is wrong with the weight files in ``folder``, or None if every weight file that the model needs can be
    opened."""
    root = Path(folder)
    index = root / "model.safetensors.index.json"
    if (root / "model.safetensors").exists():
        names = ["model.safetensors"]
    elif index.exists():
        try:
            names = sorted(set(re.findall(r':\s*"([^"]+\.safetensors)"', index.read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError):
            names = []
        if not names:
            return f"{index.name} is damaged"
    else:
        return _no_weights(root)
    for name in names:
        if not (root / name).exists():
            return f"{name} is missing ({index.name} names it)"
        fault = _file_fault(root / name)
        if fault:
            return f"{name} {fault}"
    return None


def _no_weights(root: Path) -> str:
    pickled = sorted(p.name for p in root.glob("*.bin"))
    if not pickled:
        return "there is no model.safetensors and no model.safetensors.index.json"
    return (
        f"its weights are pickled ({pickled[0]}) and only safetensors is loaded; convert it once with the class of "
        f"transformers: AutoModelForCausalLM (or AutoModelForSeq2SeqLM).from_pretrained({str(root)!r}, "
        "use_safetensors=False).save_pretrained(NEW_FOLDER), and copy the tokenizer files"
    )


def _file_fault(file: Path) -> str | None:
    """Why the safetensors file ``file`` cannot be opened, or None if it can."""
    try:
        with file.open("rb") as stream:
            if stream.read(20).startswith(b"version https://git"):
                return "is a Git LFS pointer, not the weights: run 'git lfs pull' in the folder"
        with safe_open(file, framework="pt"):
            return None
    except (OSError, SafetensorError) as error:
        return f"is damaged or incomplete ({one_line(error)})"
