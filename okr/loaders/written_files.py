"""What text files hold, whoever wrote them: UTF-8, with or without a byte order mark, any line ends, JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path

JSON_LINES = (".jsonl", ".ndjson", ".json")


def decoded(raw: bytes) -> str:
    """The text of a file, its lines ended by line feeds, without a byte order mark. ValueError where it is not UTF-8.

    A zero byte is none of a text: UTF-16 without a mark is full of them and would pass for UTF-8.
    """
    text = raw.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def holds_json_lines(path: Path) -> bool:
    """Whether its name says that a file holds one JSON object a line."""
    return path.suffix.lower() in JSON_LINES


def strings_of(line: str, names: Sequence[str]) -> dict[str, str]:
    """Those of ``names`` that the JSON object ``line`` has, the first of which it must have. ValueError, in words that
    follow on "line 3: ", where they are not strings or hold halves of surrogate pairs, which are no characters."""
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
