"""Runs suites whole in the folder ./whole, and in ./killed as a chain of starts that are killed (SIGKILL).

The first starts are one process each, killed just before its second file is put in place: the work of a cell is done,
its record is not. Near the end each start is two processes, killed at their ``LATE``-th files. The last start is two
processes that nobody kills. Prints how many starts were killed, in which suites, and how many cells each process did.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import torch

from okr.experiment.config import resolve
from okr.experiment.runner import Ready, prepare
from okr.jobs import store
from okr.jobs.processes import ALONE, joined
from okr.jobs.tasks import NotAvailable
from okr.suites.options import SUITES, SuiteOptions
from okr.suites.runner import run_suites
from okr.suites.text_attacks import alternatives

EARLY, LATE, NEVER = 2, 6, 10_000


def die_at_a_file(deadly: int) -> None:
    """SIGKILL in place of the ``deadly``-th file; the name of its suite is left in ./deaths."""
    replace, count = Path.replace, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal count
        count += b'"not available"' not in self.read_bytes()  # such cells are tried again by every start
        if count == deadly:
            inside = Path(target).parts
            with Path("deaths").open("a", encoding="utf-8") as file:
                file.write(f"{inside[inside.index('suites') + 1]}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted


def take_part(flags: dict, options: SuiteOptions, ready: Ready, rank: int, count: int, deadly: int) -> int:
    """Be one of ``count`` processes of a start; the exit code."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
    store.PATIENCE, store.LONGEST = 1.0 if deadly < NEVER else 60.0, 0.0 if deadly < NEVER else 600.0
    die_at_a_file(deadly)
    try:
        with joined() as processes:
            run_suites(resolve("tiny", flags, environment={}), options, SUITES, processes=processes, ready=ready)
    except Exception as error:
        print(repr(error), file=sys.stderr)
        return 1
    return 0


def start(flags: dict, options: SuiteOptions, ready: Ready, count: int, deadly: int) -> list[int]:
    """Start ``count`` processes, which have the model ``ready``; their wait statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            os._exit(take_part(flags, options, ready, rank, count, deadly))
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


def cells(folder: str) -> list[Path]:
    return [path for path in (Path(folder) / "suites").rglob("*.json") if path.name != "plan.json"]


def main() -> None:
    torch.set_num_threads(1)
    with contextlib.suppress(NotAvailable):
        alternatives("boat")  # has read the dictionaries that every start needs
    flags, options = json.loads(sys.argv[1]), SuiteOptions.model_validate_json(sys.argv[2])
    ready = prepare(resolve("tiny", flags | {"output_dir": "whole"}, environment={}), ALONE)
    if start(flags | {"output_dir": "whole"}, options, ready, 1, NEVER) != [0]:
        sys.exit("the whole run failed")
    every = len(cells("whole"))
    killed = flags | {"output_dir": "killed"}
    kills: Counter[int] = Counter()
    start(killed, options, ready, 1, 1)  # in place of the plan
    while (done := len(cells("killed"))) < every - 2 * LATE and sum(kills.values()) < every:
        count, deadly = (1, EARLY) if done < every - 5 * LATE else (2, LATE)
        statuses = start(killed, options, ready, count, deadly)
        if not any(os.WIFSIGNALED(status) for status in statuses):
            sys.exit(f"a start of {count} processes ended with {statuses}")
        kills[count] += 1
    if start(killed, options, ready, 2, NEVER) != [0, 0]:
        sys.exit("the last start failed")
    by = Counter(json.loads(path.read_text(encoding="utf-8"))["process"] for path in cells("killed"))
    where = Path("deaths").read_text(encoding="utf-8").split()
    print(json.dumps({"kills": kills, "where": where, "by": by}))


if __name__ == "__main__":
    main()
