"""What can be said about an implementation: the words of every report, and the exceptions that carry them."""

from typing import Literal

Verdict = Literal[
    "pass",  # the clause held on every case
    "fail",  # the clause was violated
    "crash",  # the implementation raised, or its process died, where it must answer
    "timeout",  # it did not answer in time
    "shape",  # an answer of the wrong shape
    "dtype",  # an answer of the wrong kind of number
    "mutated",  # it wrote into an array it was lent
    "unsupported",  # it lacks the function this clause is about; never counts as passed
    "not applicable",  # the clause speaks of something this implementation does not claim to be
    "suite error",  # the harness itself failed; says nothing about the implementation
]
FAULTS: tuple[str, ...] = ("crash", "timeout", "shape", "dtype", "mutated")
FAILURES: tuple[str, ...] = ("fail", *FAULTS)


class Violation(AssertionError):
    """A clause does not hold. The message says what was expected and what came."""

    def __init__(self, what: str, *, expected: str = "", got: str = "") -> None:
        super().__init__(what)
        self.what, self.expected, self.got = what, expected, got


class Fault(Exception):
    """The implementation did not give an answer that could be judged; ``kind`` is one of FAULTS."""

    def __init__(self, kind: Verdict, message: str) -> None:
        super().__init__(message)
        self.kind: Verdict = kind


class Unsupported(Exception):
    """The implementation has no such function."""


class NotApplicable(Exception):
    """The clause is conditional, and its condition is not met by this implementation."""


class BadImplementation(Exception):
    """The implementation named on the command line cannot be loaded, or fails the first simple call."""


class UsageError(Exception):
    """The command line asks for something that does not exist."""


def words(error: BaseException) -> str:
    """An error of the implementation's on one line; its own text may fail too."""
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:
        text = "(an error without a text)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def require(condition: bool, what: str, *, expected: object = "", got: object = "") -> None:
    """Raise Violation unless ``condition`` holds."""
    if not condition:
        raise Violation(what, expected=str(expected), got=str(got))
