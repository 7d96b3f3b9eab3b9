"""The ``okr`` command. Nothing heavy is imported until a command has something to do (``--help`` stays instant)."""

import contextlib
import dataclasses
import errno
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from okr import __version__, collector
from okr.calibrate_cli import calibrate_command
from okr.cli_options import (
    AsJson,
    Device,
    Dtype,
    Epsilon,
    MaxMemory,
    Quantization,
    Remote,
    Strength,
    Zone,
    placement_of,
    say,
)
from okr.conform_cli import conform
from okr.detection_cli import attribute_command, detect_command, verify_command
from okr.entry import INTERRUPTED, NO_RESULT
from okr.errors import InvalidConfig, OKRError, RouterNotFound
from okr.generate_cli import generate_command
from okr.streams import escape_what_cannot_be_shown, warnings_to_stderr
from okr.suite_cli import (
    SUITE_OPTIONS,
    Choices,
    HumanEval,
    Judge,
    Pairs,
    Paraphraser,
    Quick,
    SuiteDecoys,
    SuiteName,
    SuiteSamples,
    SuiteTokens,
    check_no_suite_options,
    report_command,
    run_with_suites,
)

DONE, BAD_INPUT, INTERNAL = 0, 2, 3
_FULL = {errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS}  # what a write fails with on a sound system

_USAGE: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, whichever click typer is built on

app = typer.Typer(
    help="Opportunistic Keyed Routing: a watermark in the router of Mixture-of-Experts language models.",
    no_args_is_help=True,
    add_completion=False,
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


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the key file (never overwritten).")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Derive it from a passphrase, asked for.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a secret key and save it in a file that only you can read."""
    from okr.routing.keys import Key

    key = Key.from_passphrase(_ask_passphrase()) if passphrase else Key.generate()
    key.save(path)
    say({"key_id": key.id, "path": str(path)}, as_json, f"key {key.id} saved in {path}")


def _ask_passphrase() -> str:
    """Asked for twice without echo at a terminal; else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True))


@app.command("discover")
def discover_(
    model: Annotated[str, typer.Argument(help="Embedded name, preset, folder or hub id.")],
    log: Annotated[bool, typer.Option("--log", help="Also say on stderr what was looked at, and why.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """List the routers of a model, and which of them can be keyed. A folder with a config.json alone is enough."""
    from okr.discovery import discover, search, table, without_weights
    from okr.experiment.placement import load_placed
    from okr.loaders import config_alone

    placement = placement_of(model, device, dtype, quantization, max_memory, trust_remote_code)
    config = config_alone(model, trust_remote_code=trust_remote_code)
    found = load_placed(placement).model if config is None else without_weights(config)
    sites = discover(found)
    if log:
        print(*search(found).log, sep="\n", file=sys.stderr)
    if as_json:
        print(json.dumps([dataclasses.asdict(site) for site in sites], indent=2))
        return
    print(table(sites))


@app.command()
def run(
    preset: Annotated[str | None, typer.Argument(help="tiny, tiny-switch, switch or deepseek-moe.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="Folder of the results.")] = None,
    samples: Annotated[int | None, typer.Option(help="Watermarked samples; as many controls are made.")] = None,
    max_length: Annotated[int | None, typer.Option(help="New tokens per sample.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples generated at once.")] = None,
    epsilon: Epsilon = None,
    zone: Zone = None,
    strength: Strength = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    key: Annotated[str | None, typer.Option(help="Key file, env:NAME or fd:N; without it a fresh key is made.")] = None,
    model: Annotated[str | None, typer.Option(help="Embedded name, preset, folder or hub id.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    max_memory: MaxMemory = None,
    prompts: Annotated[str | None, typer.Option(help="File with a prompt a line (text or .jsonl).")] = None,
    decoys: Annotated[int | None, typer.Option(help="Decoy keys of every verification.")] = None,
    config: Annotated[str | None, typer.Option(help="JSON or TOML file of settings.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    suite: SuiteName = None,
    quick: Quick = False,
    suite_samples: SuiteSamples = None,
    suite_tokens: SuiteTokens = None,
    suite_decoys: SuiteDecoys = None,
    judge: Judge = None,
    paraphraser: Paraphraser = None,
    pairs: Pairs = None,
    choices: Choices = None,
    human_eval: HumanEval = False,
    trust_remote_code: Remote = False,
    as_json: AsJson = False,
) -> None:
    """Watermark a model, prove it against a control group, and write results.json and report.html.

    A flag goes before the configuration file, the file before the environment (OKR_SAMPLES, ..., QUICK_TEST), the
    environment before the preset.
    """
    given = dict(locals())
    preset, file, again, machine = (given.pop(name) for name in ("preset", "config", "resume", "as_json"))
    asked = {name: given.pop(name) for name in SUITE_OPTIONS}
    from okr.experiment.config import resolve

    resolved = resolve(preset, given | {"trust_remote_code": trust_remote_code or None}, file=file)
    if suite is not None:
        from okr.evidence.options import suite_options, suites_of

        run_with_suites(resolved, suite_options(asked), suites_of(suite), resume=again, as_json=machine)
        return
    check_no_suite_options(asked)
    from okr.experiment.command import run_command

    run_command(resolved, resume=again, as_json=machine)


app.command("generate")(generate_command)
app.command("verify")(verify_command)
app.command("detect")(detect_command)
app.command("attribute")(attribute_command)
app.command("calibrate")(calibrate_command)
app.command()(conform)


@app.command()
def validate(
    results: Annotated[Path, typer.Argument(help="A results.json.")],
    as_json: AsJson = False,
) -> None:
    """Check a results.json: its form, that its figures follow from its samples, and the traces beside it."""
    from okr.experiment.results import Results

    found = Results.load(results)
    from okr.experiment.agreement import check_figures, check_traces

    try:
        check_figures(found)
        beside = check_traces(found, results.parent)
    except InvalidConfig as error:
        raise InvalidConfig(f"{results} is not valid: {error}") from None
    said = {"valid": True, "schema_version": found.schema_version, "traces": "agree" if beside else "not there"}
    say(
        said,
        as_json,
        f"{results} is valid" + ("" if beside else "; its traces are not beside it and were not looked at"),
    )


app.command("report")(report_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code; no traceback for anything the user can put right."""
    logging.getLogger("okr").addHandler(warnings_to_stderr())
    escape_what_cannot_be_shown()
    collector.spare()
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
    with contextlib.suppress(OSError):  # nobody can be told where standard error is full: the exit code still tells
        print(f"okr: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
