"""``server.py SOCKET``: answers client.py with forks of a process that has imported the package and what it needs.

Importing torch, transformers and okr takes seconds; a fork takes none. Nothing is computed before a fork: threads
would not survive it. SOCKET is the number of an open socket that listens. The server ends with its standard input.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import types
import warnings

from numba.core.registry import cpu_target

import okr

LATE = (
    "accelerate.commands.launch",
    "lemminflect",
    "matplotlib.backends.backend_svg",
    "transformers.models.deepseek_v2.modeling_deepseek_v2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.switch_transformers.modeling_switch_transformers",
    "transformers.models.t5.tokenization_t5",
    "transformers.tokenization_utils_tokenizers",
)
"""What the package imports when it loads a model or draws."""


def import_everything() -> None:
    for found in pkgutil.walk_packages(okr.__path__, "okr."):
        if "__main__" not in found.name and "conftest" not in found.name and "test_" not in found.name:
            importlib.import_module(found.name)
    for name in LATE:
        with contextlib.suppress(ImportError):  # another release has it elsewhere, and a fork imports it later
            importlib.import_module(name)
    for context in (cpu_target.typing_context, cpu_target.target_context):
        context.refresh()  # what numba knows of NumPy: loaded with the first compiled function
    gc.collect()
    gc.freeze()  # the collector of a fork does not touch, and so copy, what all forks share


def request(client: socket.socket) -> dict:
    """What a client asks for; its streams become those of this process."""
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    left, told = int.from_bytes(head, "big"), b""
    while len(told) < left:
        told += client.recv(left - len(told))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return json.loads(told)


def watch(child: int, client: socket.socket) -> None:
    """Tell the client how ``child`` ended, and kill it when the client is gone."""
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([ended, client], [], [])
    if client in readable:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if client not in readable:
        client.sendall(str(code if code >= 0 else 128 - code).encode())


def next_request(listener: socket.socket) -> dict:
    """Wait for clients; returns once for each of them, in a process of its own, and when the standard input ends."""
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in readable:
            os._exit(0)
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asked, child = request(client), os.fork()
            if child:
                watch(child, client)
                os._exit(0)
            client.close()
            listener.close()
            return asked
        client.close()


def become(asked: dict) -> None:
    """Do what ``python WORDS...`` does; words are ``-c CODE``, ``-m MODULE`` or a script, and its arguments;
    -u stands before them and changes nothing."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[1:1] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    first, *rest = [word for number, word in enumerate(asked["words"]) if number or word != "-u"]
    if first in ("-c", "-m"):
        what, *arguments = rest
        sys.path[0], sys.argv = "", [first, *arguments]
    else:
        sys.path[0], sys.argv = os.path.dirname(first), [first, *rest]  # noqa: PTH120 - as Python has it
    if first == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
    elif first == "-m":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    become(next_request(socket.socket(fileno=int(sys.argv[1]))))
