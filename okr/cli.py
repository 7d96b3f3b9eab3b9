"""The ``okr`` command. Nothing heavy is imported until a command has something to do (``--help`` stays instant)."""

import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from okr import startup
from okr.commands.bake import bake_command, inspect_command, unbake_command
from okr.commands.calibrate import calibrate_command
from okr.commands.conform import conform_command
from okr.commands.detection import attribute_command, detect_command, verify_command
from okr.commands.discover import discover_command
from okr.commands.generate import generate_command
from okr.commands.keygen import inspect_key_command, keygen_command
from okr.commands.report import report_command
from okr.commands.run import run_command
from okr.commands.serve import serve_command
from okr.commands.validate import validate_command
from okr.entry import INTERRUPTED, NO_RESULT
from okr.errors import OKRError, RouterNotFound
from okr.version import __version__

DONE, BAD_INPUT, INTERNAL = 0, 2, 3
_COMPLETION = "_OKR_COMPLETE"  # the name that typer gives it
_FULL = {errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS}  # what a write fails with on a sound system

# ClickException of whichever click typer is built on: newer ones bring their own
_USAGE: type[Exception] = next(kind for kind in typer.BadParameter.mro() if kind.__name__ == "ClickException")

app = typer.Typer(
    help="Opportunistic Keyed Routing: a watermark in the router of Mixture-of-Experts language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"okr {__version__}")
        raise typer.Exit


@app.callback()
def _whatever_the_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print okr's version and leave.")
    ] = False,
) -> None:
    pass


app.command("keygen")(keygen_command)
app.command("inspect-key")(inspect_key_command)
app.command("discover")(discover_command)
app.command("run")(run_command)
app.command("generate")(generate_command)
app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve_command)
app.command("bake")(bake_command)
app.command("unbake")(unbake_command)
app.command("inspect")(inspect_command)
app.command("verify")(verify_command)
app.command("detect")(detect_command)
app.command("attribute")(attribute_command)
app.command("calibrate")(calibrate_command)
app.command("conform")(conform_command)
app.command("validate")(validate_command)
app.command("report")(report_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code; no traceback for anything the user can put right."""
    if _COMPLETION in os.environ:  # the shell asks, with what is typed so far in its environment
        app(prog_name="okr")
    logging.getLogger("okr").addHandler(startup.warnings_to_stderr())
    startup.escape_what_cannot_be_shown()
    startup.spare()
    sys.exit(execute(sys.argv[1:] if arguments is None else list(arguments)))


def execute(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; messages go to stderr, results to stdout."""
    try:
        return _invoke(arguments)
    except _USAGE as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if not arguments:  # then it is the help
            print(message, file=sys.stderr)
            return BAD_INPUT
        return _fail(message)
    except RouterNotFound as error:
        for line in error.log:
            print(line, file=sys.stderr)
        return _fail(str(error))
    except OKRError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort) as stop:
        _tell(str(stop) or NO_RESULT)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # whoever read it is gone: nothing left to flush
        return DONE
    except Exception as error:
        return _unforeseen(error)


def _invoke(arguments: Sequence[str]) -> int:
    """What typer's own ``main`` does, but for Ctrl-C, which it answers differently in every version."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("okr", list(arguments)) as context:
            outcome = command.invoke(context)
    except typer.Exit as stop:
        outcome = stop.exit_code
    if sys.stdout is not None:
        sys.stdout.flush()  # where it cannot be written, this is the place to say so
    return outcome if isinstance(outcome, int) else DONE


def _unforeseen(error: Exception) -> int:
    """Say what no command expects: a full disk or a full memory on one line, anything else with its traceback."""
    if isinstance(error, OSError) and error.errno in _FULL:  # every file of ours is named by the error
        if error.filename is None:
            sys.stdout = None  # type: ignore[assignment]  # what could not be written is not tried again on leaving
        return _fail(f"cannot write to {error.filename or 'standard output'}: {error.strerror}")
    from okr.loaders import is_out_of_memory, out_of_memory

    if is_out_of_memory(error):
        return _fail(f"{out_of_memory(error, doing='running this command')}; use fewer --decoys or --rows")
    import traceback

    traceback.print_exc()
    _fail("internal error: this is a bug in okr, please report the lines above")
    return INTERNAL


def _fail(message: str) -> int:
    _tell(" ".join(message.split()))
    return BAD_INPUT


def _tell(line: str) -> None:
    try:
        print(f"okr: {line}", file=sys.stderr)
    except OSError:  # nobody can be told where standard error is full: the exit code still tells
        sys.stderr = None  # type: ignore[assignment]  # what is left in it is not tried again on leaving


if __name__ == "__main__":
    main()
