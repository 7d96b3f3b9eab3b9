"""``okr keygen``: a secret key in a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from okr.commands.options import AsJson, say


def keygen_command(
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
