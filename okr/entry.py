"""The start of the ``okr`` command. It imports little, so that Ctrl-C is answered before anything else is imported."""

import signal
import sys
from collections.abc import Sequence

INTERRUPTED = 130
NO_RESULT = "stopped; there is no result"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    try:
        from okr.cli import main as command

        command(arguments)
    except KeyboardInterrupt:
        print(f"okr: {NO_RESULT}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on there is nothing left to say
