"""Runs one experiment as three starts of several processes, most of which are killed (SIGKILL) in the middle of it.

First three processes: 1 dies in its second batch, 2 in its first, and the main one gives up waiting for them. Then two:
the main one dies, the other ends its share. Then one alone, which ends the run. Prints every task that was done, in
which start, and what the main processes said.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from okr.experiment import tasks
from okr.experiment.config import Resolved, resolve
from okr.experiment.runner import run
from okr.experiment.sampling import Batch
from okr.jobs import store
from okr.jobs.processes import joined

NEVER = 100
STARTS = [[NEVER, 1, 0], [0, NEVER], [NEVER]]
"""For every start and process: the batch of its share in which it is killed."""


def sabotaged(deadly: int, notes: Path) -> Callable[..., Batch]:
    """make_batch that notes what it made, and kills its process once the traces of batch ``deadly`` are written."""
    make_batch, count = tasks.make_batch, 0

    def make(*arguments: object) -> Batch:
        nonlocal count
        record = make_batch(*arguments)
        if count == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        with notes.open("a") as file:
            file.write(json.dumps([record.index, record.group]) + "\n")
        return record

    return make


def take_part(resolved: Resolved, start: int, rank: int, notes: Path) -> None:
    """Be process ``rank`` of start ``start``."""
    count = len(STARTS[start])
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
    tasks.make_batch = sabotaged(STARTS[start][rank], notes)
    store.PATIENCE, store.LONGEST = 1.0, 0.0
    with joined() as processes:
        run(resolved, resume=start > 0, processes=processes)


def start_all(resolved: Resolved, start: int, notes: Path, said: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(len(STARTS[start])):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            take_part(resolved, start, rank, notes)
        except Exception as error:
            with said.open("a") as file:
                file.write(json.dumps(f"{type(error).__name__}: {error}") + "\n")
        finally:
            os._exit(0)
    for child, deadly in zip(children, STARTS[start], strict=True):
        status = os.waitpid(child, 0)[1]
        if (deadly != NEVER) != os.WIFSIGNALED(status):
            sys.exit(f"a process of start {start} ended with status {status}")


def main() -> None:
    resolved = resolve("tiny", json.loads(sys.argv[1]), environment={})
    notes, said = (Path(resolved.config.output_dir).with_name(name) for name in ("notes", "said"))
    for start in range(len(STARTS)):
        start_all(resolved, start, notes, said)
    lines = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in (notes, said)}
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
