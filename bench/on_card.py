"""The figures of a card, by one command: the card's tests, the guide's experiment, what a key costs, proof and memory.

    python bench/on_card.py --out figures           # a card with 80 GB; nine minutes
    python bench/on_card.py --out figures --tiny    # the same steps at toy sizes on the CPU; half a minute

The steps run in the order of their worth, in processes that can be ended: one that crashes, hangs or takes its time
loses nothing of the others. FOLDER gets STEP.json when a step is whole (STEP.part.json before, after every figure) and
STEP.log, and at last summary.json and summary.md. A step whose STEP.json is there is not run again.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from card import summary
from card.notes import blame, kept
from card.sizes import FULL, TINY, Sizes
from card.worker import DONE, FAILED, IMPOSSIBLE, SUITE, Worker

STEPS = {
    SUITE: 190,
    "experiment": 50,
    "cost": 150,
    "router": 30,
    "verification": 30,
    "hit-rates": 25,
    "memory": 25,
    "compiled": 40,
}
"""The steps in the order of their worth, and the seconds of each. What one leaves, the next ones may use."""


def refuse(reason: str, code: int = 1) -> NoReturn:
    """End with one line."""
    print(f"on_card: {reason}", file=sys.stderr)
    sys.exit(code)


def opened(folder: Path) -> Path:
    """``folder``, made if need be, with its whole path. One line if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable."):
            pass
    except OSError as error:
        refuse(f"cannot write to the folder {folder} ({error.strerror}): choose another with --out")
    return folder.resolve()


def known(folder: Path, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """The figures that ``folder`` has already, by step."""
    try:
        found = {step: kept(folder, step) for step in STEPS}
    except ValueError as error:
        refuse(str(error))
    known = {step: figures for step, figures in found.items() if figures is not None}
    for step, figures in known.items():
        if figures.get("size", sizes.name) != sizes.name:
            refuse(f"{folder} holds figures of the size {figures['size']} ({step}): choose another folder with --out")
    return known


def run(folder: Path, sizes: Sizes, limit: float) -> bool:
    """Do what is missing in ``folder``; whether every step is whole then."""
    worker: Worker | None = None
    began, share, whole = time.monotonic(), 0.0, True
    done = {step for step, figures in known(folder, sizes).items() if figures["whole"]}
    try:
        for step, seconds in STEPS.items():
            if step in done:
                print(f"{step}: figures are there already", flush=True)
                continue
            worker = worker or Worker(sizes, folder)
            share += seconds * limit / sum(STEPS.values())
            state, reason = worker.ask(step, began + share - time.monotonic())
            if state == IMPOSSIBLE:
                refuse(reason)
            if state == FAILED:
                blame(folder, step, sizes.name, reason)
                whole = False
            if state != DONE or step == SUITE:
                worker.end()
                worker = None
            print(f"{step}: {state} {reason}".rstrip() + f" ({time.monotonic() - began:.0f} s so far)", flush=True)
            summary.write(folder, known(folder, sizes))
    finally:
        if worker is not None:
            worker.end()
    return whole


def positive(text: str) -> float:
    """A number of seconds."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the figures go")
    parser.add_argument("--limit", type=positive, default=sum(STEPS.values()), metavar="SECONDS", help="of all steps")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU")
    arguments = parser.parse_args()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = opened(arguments.out)
    sizes = TINY if arguments.tiny else FULL
    try:
        whole = run(folder, sizes, arguments.limit)
    except KeyboardInterrupt:
        refuse(f"stopped; {folder} keeps the figures of the steps that are done, and the same command goes on", 130)
    print(f"\n{summary.write(folder, known(folder, sizes))}")
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
