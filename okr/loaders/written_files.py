"""Reads text files from any writer: UTF-8 with or without a byte order mark, any line ends, JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path

JSON_LINES = (".jsonl", ".ndjson", ".json")


def decoded(raw: bytes) -> str:
    """The text of a file, without a byte order mark and with line feeds as line ends. Raises ValueError if it is not
    UTF-8.

    A zero byte is refused too, because UTF-16 without a byte order mark would otherwise pass for UTF-8.
    """
    text = raw.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def holds_json_lines(path: Path) -> bool:
    """Whether the ending of the file's name says that each line is a JSON object."""
    return path.suffix.lower() in JSON_LINES


def strings_of(line: str, names: Sequence[str]) -> dict[str, str]:
    """The strings under ``names`` in the JSON object ``line``. The first name is required, the others are optional.

    Raises ValueError if a value is no string or holds half of a surrogate pair, which is no character. The message can
    follow "line 3: ".
    """
    try:
        record = json.loads(line)
        found = {name: record[name] for name in names if name in record}
    except (ValueError, TypeError, RecursionError):
        found = {}
    if not isinstance(found.get(names[0]), str) or not all(isinstance(value, str) for value in found.values()):
        beside = f", with {' or '.join(json.dumps(name) for name in names[1:])} beside it" if names[1:] else ""
        raise ValueError(f'expected {{"{names[0]}": "..."}}{beside}')
    for name, value in found.items():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start : error.start + 1].encode("unicode_escape").decode()
            raise ValueError(f'"{name}" holds {half}, half of a character that was cut in two') from None
    return found
