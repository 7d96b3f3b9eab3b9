"""Turning whatever goes wrong while a model is loaded or run into one line that says what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from okr.errors import OutOfMemory

_LIMIT = 300  # characters of a foreign message that are worth showing
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # cards; Windows; Linux


def one_line(text: object) -> str:
    """``text`` without line breaks, cut to a readable length."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LIMIT else line[: _LIMIT - 3] + "..."


def root_message(error: BaseException) -> str:
    """The innermost message of a chain of exceptions: what really went wrong, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def out_of_memory(
    error: BaseException, *, doing: str, batch_size: int | None = None, max_length: int | None = None
) -> OutOfMemory:
    """The error to raise instead of ``error``: what was being done, with which figures, and what helps."""
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
    """Run a block; where it runs out of memory, raise :class:`okr.errors.OutOfMemory` with advice instead."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = out_of_memory(error, doing=doing, batch_size=batch_size, max_length=max_length)
    else:
        return
    # Raised outside the handler and without a cause: the traceback of the original would keep its tensors alive.
    raise failure


def weights_fault(folder: str) -> str | None:
    """What is wrong with the weight files in ``folder``, or None where every file they need opens."""
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
    try:
        with file.open("rb") as stream:
            if stream.read(20).startswith(b"version https://git"):
                return "is a Git LFS pointer, not the weights: run 'git lfs pull' in the folder"
        with safe_open(file, framework="pt"):
            return None
    except (OSError, SafetensorError) as error:
        return f"is damaged or incomplete ({one_line(error)})"
