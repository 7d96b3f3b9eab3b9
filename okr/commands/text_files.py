"""Texts to be judged: what files hold, and the tokens that a model reads of them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from okr.errors import InvalidConfig, InvalidText
from okr.loaders.written_files import decoded, holds_json_lines, strings_of

if TYPE_CHECKING:
    from okr.engines import Engine
    from okr.loaders import Loaded

FIELDS = ("text", "prompt", "source")


@dataclass(frozen=True)
class Written:
    """One text. ``name`` is its file, with ``:3`` for the third of several; ``prompt`` was given in front of it and
    ``source`` to the encoder."""

    name: str
    text: str
    prompt: str | None = None
    source: str | None = None


def read_texts(path: Path, separator: str | None = None) -> list[Written]:
    """The texts of a file (``-``: standard input), at least one.

    A file holds one text, or several, parted by lines that hold ``separator`` and nothing else; a file of JSON lines
    (``.jsonl``, ``.ndjson``, ``.json``) one a line, ``{"text": ..., "prompt": ..., "source": ...}``, the last two as
    far as there are any. The line break that ends a file is no part of its text, nor is a byte order mark. Raises
    InvalidText where nothing can be read or there are only blank texts; blank parts between separators do not count,
    while a blank one of several JSON lines is for :func:`tokenise` to refuse.
    """
    content = _content(path)
    if holds_json_lines(path):
        found = [_record(path, number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    else:
        parts = [content] if separator is None else _parts(content, separator)
        found = [{"text": part} for part in parts if separator is None or part.strip()]
    if not any(record["text"].strip() for record in found):
        raise InvalidText(f"{path} holds no text")
    names = [str(path)] if len(found) == 1 else [f"{path}:{number}" for number in range(1, len(found) + 1)]
    return [Written(name, **record) for name, record in zip(names, found, strict=True)]


def with_given(texts: Sequence[Written], name: str, given: Sequence[str]) -> list[Written]:
    """``texts``, each with its own of ``given`` as its prompt or source (``name``). InvalidText where they differ in
    number, or a text has one already."""
    if given and len(given) != len(texts):
        raise InvalidText(f"--{name} is needed once for each text: {len(texts)} texts, {len(given)} {name}s")
    if not given:
        return list(texts)
    for text in texts:
        if getattr(text, name) is not None:
            raise InvalidText(f"{text.name} brings its own {name}: leave --{name} out")
    return [
        Written(**{**vars(text), name: part})  # type: ignore[arg-type]
        for text, part in zip(texts, given, strict=True)
    ]


def check_separator(separator: str | None) -> None:
    """InvalidConfig for what no line can be, so that every file would pass for one text."""
    if separator is not None and (separator != separator.rstrip() or len(separator.splitlines()) > 1):
        raise InvalidConfig(
            f"--separator must be one line, without blanks at its end, got {separator!r}; '' is an empty line"
        )


def _content(path: Path) -> str:
    try:
        return decoded(_standard_input() if str(path) == "-" else path.read_bytes()).removesuffix("\n")
    except OSError as error:
        raise InvalidText(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise InvalidText(f"{path} is not UTF-8 text") from None


def _standard_input() -> bytes:
    """As bytes, which mean the same wherever they are read: the locale has no part in it."""
    if sys.stdin is None:
        raise InvalidText("cannot read -: standard input is closed")
    return sys.stdin.buffer.read()


def _parts(content: str, separator: str) -> list[str]:
    parts: list[list[str]] = [[]]
    for line in content.split("\n"):
        if line.rstrip() == separator:
            parts.append([])
        else:
            parts[-1].append(line)
    return ["\n".join(part) for part in parts]


def _record(path: Path, number: int, line: str) -> dict[str, str]:
    try:
        return strings_of(line, FIELDS)
    except ValueError as error:
        raise InvalidText(f"{path}, line {number}: {error}") from None


@dataclass(frozen=True)
class Tokens:
    """What :func:`okr.detect` is given of one text: its pieces, how many tokens of each were given, their sources."""

    pieces: list[list[int]]
    given: list[int]
    sources: list[list[int]]


def joint(texts: Sequence[Tokens]) -> dict[str, Any]:
    """The arguments of :func:`okr.detect` for ``texts`` as one test."""
    return {
        "token_ids": [piece for text in texts for piece in text.pieces],
        "prompt_length": [length for text in texts for length in text.given],
        "source_ids": [ids for text in texts for ids in text.sources] or None,
    }


def tokenise(loaded: "Loaded", engine: "Engine", written: Written) -> Tokens:
    """The tokens of one text as the model reads it, its own special tokens in front.

    ``engine`` runs the loaded model.

    Without a prompt a text beyond the model's positions becomes several pieces. Raises InvalidText for what this model
    cannot judge.
    """
    from okr.detection.text import as_texts

    if not written.text.strip():
        raise InvalidText("the text is blank")
    tokens = (
        _for_encoder_decoder(loaded, written) if loaded.model.config.is_encoder_decoder else _alone(loaded, written)
    )
    as_texts(engine, **joint([tokens]))
    return tokens


def _for_encoder_decoder(loaded: "Loaded", written: Written) -> Tokens:
    from okr.loaders import generation_defaults

    if written.prompt is not None:
        raise InvalidText("--prompt is for decoder-only models; name what the encoder read with --source")
    start = generation_defaults(loaded.model)["decoder_start_token_id"]
    sources = [] if written.source is None else [_with_special(loaded.tokenizer, written.source)]
    return Tokens([[start, *_bare(loaded.tokenizer, written.text)]], [0], sources)


def _alone(loaded: "Loaded", written: Written) -> Tokens:
    tokenizer, ids = loaded.tokenizer, _bare(loaded.tokenizer, written.text)
    if written.source is not None:
        raise InvalidText("--source is for encoder-decoders; this model has no encoder")
    if written.prompt is not None:
        front = _with_special(tokenizer, written.prompt)
        both = _with_special(tokenizer, written.prompt + written.text)
        # A tokenizer that marks where a text begins would mark it here too: both are read in one, where that leaves
        # the prompt's tokens as they are.
        kept = both[: len(front)] == front and len(both) > len(front)
        return Tokens([front + (both[len(front) :] if kept else ids)], [len(front)], [])
    bos = [] if tokenizer.bos_token_id in (None, *ids[:1]) else [tokenizer.bos_token_id]
    room = getattr(loaded.model.config, "max_position_embeddings", None) or sys.maxsize
    parts = [bos + ids[first : first + room - 1] for first in range(0, len(ids), room - 1)]
    pieces = [part for part in parts if len(part) > 1] or [bos + ids]
    return Tokens(pieces, [0] * len(pieces), [])


def _bare(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _with_special(tokenizer: Any, text: str) -> list[int]:
    """With the special tokens that the model reads in front, once: a rendered chat template brings its own."""
    bare = _bare(tokenizer, text)
    return bare if bare and bare[0] == tokenizer.bos_token_id else list(tokenizer(text)["input_ids"])
