"""How long the command takes until something happens: importing okr, --help, and okr.run to the first generated token.

    python bench/startup.py
    python bench/startup.py --rounds 9 --json figures.json

Every round starts a fresh process for each of them, in turn. Wall is the time that a user waits, CPU the time that the
process computed; on a busy machine the first is larger. The first token is timed from the start of the interpreter to
the return of the first generating forward pass of ``okr run tiny``: loading, discovery, proving the routers included.
Prints a Markdown table of medians with the range of the middle half.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FIRST_TOKEN = """
import sys, time
import torch.nn
from okr.cli import execute
call = torch.nn.Module.__call__
def first(self, *arguments, **options):
    found = call(self, *arguments, **options)
    if getattr(found, "past_key_values", None) is not None and getattr(found, "logits", None) is not None:
        print("first token", time.time(), time.process_time(), flush=True)
        import os; os._exit(0)
    return found
torch.nn.Module.__call__ = first
execute(["run", "tiny", "--output-dir", sys.argv[1]])
"""
LIMITS = {"python": None, "import okr": 0.2, "okr --help": 1.0, "okr run tiny: first token": 6.0}


def spent(words: list[str], folder: Path) -> tuple[float, float]:
    """Seconds on the wall and of CPU until the process ended, or until it says that its first token is there."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.time()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=True)
    wall = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for line in done.stdout.splitlines():
        if line.startswith("first token"):
            return float(line.split()[2]) - began, float(line.split()[3])
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in LIMITS}
    with tempfile.TemporaryDirectory() as temporary:
        for turn in range(arguments.rounds + 1):
            words = {
                "python": ["-c", "pass"],
                "import okr": ["-c", "import okr"],
                "okr --help": ["-m", "okr.cli", "--help"],
                "okr run tiny: first token": ["-c", FIRST_TOKEN, str(Path(temporary) / str(turn))],
            }
            for name, what in words.items():
                found = spent(what, Path(temporary))
                if turn:  # the first round reads the files from disk
                    seconds[name].append(found)
    quartiles = {name: np.quantile(np.array(found), [0.25, 0.5, 0.75], axis=0) for name, found in seconds.items()}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| what | wall, s | CPU, s | limit, s |\n| --- | --- | --- | --- |")
    for name, q in quartiles.items():
        wall, cpu = (f"{q[1, i]:.2f} ({q[0, i]:.2f}-{q[2, i]:.2f})" for i in range(2))
        print(f"| {name} | {wall} | {cpu} | {LIMITS[name] or ''} |")
    if arguments.json:
        figures = {name: {"wall": q[:, 0].tolist(), "cpu": q[:, 1].tolist()} for name, q in quartiles.items()}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
