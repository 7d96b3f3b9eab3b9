"""A process beside the command that does steps when it is told to, and that can be ended at any moment."""

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from card.notes import Notes
from card.sizes import Sizes

DONE, FAILED, IMPOSSIBLE = "done", "failed", "impossible"
SUITE = "tests"
"""The step that needs a process of its own, since pytest must be the first to import the package."""


class Worker:
    """The process. It is a fork, so what the command has not imported yet it imports itself; nothing of CUDA may have
    begun in the command."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.connection, theirs, sizes, folder))
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until the process can answer it
        self.process.start()
        theirs.close()

    def ask(self, step: str, seconds: float) -> tuple[str, str]:
        """How the step ended, and why if it failed: it raised, the process died, or it took more than ``seconds``."""
        try:
            self.connection.send(step)
            if not self.connection.poll(max(0.0, seconds)):
                os.kill(self.process.pid, signal.SIGUSR1)  # where it hangs goes to its log
                if not self.connection.poll(0.5):
                    return FAILED, f"took more than the {seconds:.3g} s that were left for it"
            answer: tuple[str, str] = self.connection.recv()
            return answer
        except (EOFError, OSError):
            self.process.join()
            return FAILED, f"its process died ({_ending(self.process.exitcode)})"

    def end(self) -> None:
        """End the process and all that it started."""
        self.connection.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(theirs: Connection, connection: Connection, sizes: Sizes, folder: Path) -> None:
    """Do the steps that ``connection`` names, until one fails or nobody asks any more. A step that failed may have left
    the card in any state, so the process ends with it."""
    theirs.close()
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(sys.__stderr__)
    faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)
    shared: dict[str, Any] = {}
    with suppress(EOFError):
        while True:
            step = connection.recv()
            _log_to(folder / f"{step}.log")
            answer = _answer(step, sizes, folder, shared)
            connection.send(answer)
            if answer[0] != DONE:
                return


def _log_to(path: Path) -> None:
    """Send what this process and its children print to ``path``."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        stream.reconfigure(line_buffering=True)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _answer(step: str, sizes: Sizes, folder: Path, shared: dict[str, Any]) -> tuple[str, str]:
    """Do one step. ``shared`` holds the model from one step to the next."""
    try:
        import torch

        if not sizes.tiny and not torch.cuda.is_available():
            return IMPOSSIBLE, "torch sees no CUDA card; --tiny does the same steps on the CPU"
        logging.basicConfig(level=logging.INFO)
        if sizes.tiny:
            torch.set_num_threads(1)
        from card.about import surroundings

        note = Notes(folder, step, {"size": sizes.name, "machine": surroundings("cpu" if sizes.tiny else "cuda")})
    except Exception as error:
        traceback.print_exc()
        return FAILED, _line(error)
    try:
        _do(step, sizes, folder, shared, note)
        note.finish()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        note.fail(_line(error))
        return FAILED, _line(error)
    return DONE, ""


def _do(step: str, sizes: Sizes, folder: Path, shared: dict[str, Any], note: Notes) -> None:
    if step == SUITE:
        from card import suite

        suite.tests(sizes, folder, note)
        return
    from card import cost, steps
    from card.subject import Subject

    what = {
        "experiment": steps.experiment,
        "cost": cost.cost,
        "router": cost.router,
        "verification": steps.verification,
        "hit-rates": steps.hit_rates,
        "memory": steps.peaks,
        "compiled": cost.compiled,
    }
    what[step](shared.setdefault("subject", Subject(sizes, folder)), note)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
