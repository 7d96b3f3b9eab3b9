"""What the package may do with a call that a check makes: take it, take it or refuse it, or refuse it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from .verdicts import Violation, require, words

okr: Any = import_module("okr")


@contextmanager
def accepted(what: str) -> Iterator[None]:
    """Violation where the package refuses, by an error of its own, what the block does."""
    try:
        yield
    except okr.OKRError as error:
        raise Violation(f"{what} was refused: {words(error)}") from error


@contextmanager
def refused(kind: type[Exception], what: str) -> Iterator[None]:
    """Violation unless the block raises an error of ``kind``, whose message is one line."""
    try:
        yield
    except kind as error:
        require(bool(str(error)) and "\n" not in str(error), f"{what}: the error is not one clear line", got=error)
    except Exception as error:
        raise Violation(f"{what}: {type(error).__name__} instead of {kind.__name__}: {words(error)}") from error
    else:
        raise Violation(f"{what} was accepted")


@contextmanager
def served(what: str) -> Iterator[None]:
    """Violation where the block raises anything."""
    try:
        yield
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"{what}: {words(error)}") from error
