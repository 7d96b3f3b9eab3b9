"""What the command line writes to, whatever it is connected to."""

import io
import logging
import sys


def escape_what_cannot_be_shown() -> None:
    """Write what the terminal's or the pipe's encoding lacks as an escape, as Python does on standard error: the name
    of a file must not cost a result that took an hour."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def warnings_to_stderr() -> logging.Handler:
    """Where the package's warnings go, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("okr: %(message)s"))
    return handler
