"""The first thing that pydantic finds wrong, for messages of one line."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError


@dataclass(frozen=True)
class Problem:
    """One value that pydantic refused.

    ``field`` is the outermost field that it is in and ``place`` the path to it, such as ``sites.0.layer``; both are
    empty where the whole is wrong. ``message`` is pydantic's, ``kind`` the check that failed, ``given`` the value.
    """

    field: str
    place: str
    message: str
    kind: str
    given: Any

    @property
    def plain(self) -> str:
        """The message on one line, without what pydantic puts before that of a check of our own."""
        return " ".join(self.message.removeprefix("Value error, ").split())

    def line(self, message: str | None = None) -> str:
        """``place: message``, or the message alone where the whole is wrong; None: pydantic's own message."""
        said = self.message if message is None else message
        return f"{self.place}: {said}" if self.place else said


def first_problem(error: ValidationError) -> Problem:
    """The first of the problems that ``error`` lists."""
    found = error.errors(include_url=False, include_context=False)[0]
    place = [str(part) for part in found["loc"]]
    return Problem("".join(place[:1]), ".".join(place), found["msg"], found["type"], found["input"])
