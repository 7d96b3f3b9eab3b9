"""Gives the passages that ship with the package: human text for prompts and for measuring quality."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Passage:
    """A verbatim excerpt of 200 to 260 words. No embedded model was trained on it.

    ``register`` is one of speech, drama, bible, novel, sea-story, technical, king-james.
    """

    id: str
    register: str
    source: str
    licence: str
    text: str


@cache
def _all() -> tuple[Passage, ...]:
    text = files("okr.loaders").joinpath("data/passages.jsonl").read_text(encoding="utf-8")
    return tuple(Passage(**json.loads(line)) for line in text.split("\n") if line)


def passages(limit: int | None = None) -> list[Passage]:
    """The first ``limit`` of the 200 passages, or all of them. The order is always the same, and registers take turns.

    Raises ValueError if ``limit`` is negative.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}")
    return list(_all()[:limit])
