"""New Python processes that start at once, and the ``okr`` command where tests look for it."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WARM = Path(__file__).with_name("warm")
COMMANDS = Path(sys.executable).parent
"""Where ``okr`` was installed, whether or not the environment is active."""


@contextmanager
def server() -> Iterator[Path]:
    """A folder with the programs ``python`` and ``okr``, whose processes have imported the package from their start.

    Where there is no fork to trust, they are the usual ones.
    """
    with tempfile.TemporaryDirectory(prefix="okr-") as name, socket.socket(socket.AF_UNIX) as listening:
        folder = Path(name)
        if not sys.platform.startswith("linux"):
            write_programs(folder, sys.executable)
            yield folder
            return
        place = f"{folder}/socket"  # short: a socket's name has 107 bytes at most
        listening.bind(place)
        listening.listen()
        write_programs(folder, f"{sys.executable} -I -S {WARM / 'client.py'} {place}")
        words = [sys.executable, str(WARM / "server.py"), str(listening.fileno())]
        with subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[listening.fileno()]):
            listening.close()  # the server's alone: when it dies, clients learn it
            yield folder


def write_programs(folder: Path, python: str) -> None:
    """Put the programs ``python`` and ``okr``, begun by the words ``python``, into ``folder``."""
    for name, words in {"python": python, "okr": f"{python} {COMMANDS / 'okr'}"}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)


def path_with(*folders: Path) -> str:
    """PATH with ``folders`` and the installed commands in front."""
    return os.pathsep.join([*map(str, folders), str(COMMANDS), os.environ.get("PATH", os.defpath)])
