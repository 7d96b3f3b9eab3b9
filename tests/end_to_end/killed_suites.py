"""Runs suites whole in the folder ./whole, and in ./killed as a chain of processes, each killed (SIGKILL) just before
it puts its ``EVERY``-th file in place: the work of a cell is done, its record is not. Prints how many were killed and
in which suites.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from okr.experiment.config import resolve
from okr.suites.options import SUITES, SuiteOptions
from okr.suites.runner import run_suites

EVERY = 17


class Silent:
    """Progress that nobody sees."""

    def begin(self, cells: int, weight: float) -> None:
        pass

    def done(self, record: object, weight: float) -> None:
        pass


def die_at_a_file() -> None:
    """SIGKILL in place of the ``EVERY``-th file; the name of its suite is left in ./deaths."""
    replace, count = Path.replace, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == EVERY:
            inside = Path(target).parts
            with Path("deaths").open("a", encoding="utf-8") as file:
                file.write(f"{inside[inside.index('suites') + 1]}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted


def attempt(flags: dict, options: SuiteOptions, *, killed: bool) -> int:
    """Run or go on with the suites in a process of its own; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        if killed:
            die_at_a_file()
        run_suites(resolve("tiny", flags, environment={}), options, SUITES, Silent())
        code = 0
    except Exception as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    flags, options = json.loads(sys.argv[1]), SuiteOptions.model_validate_json(sys.argv[2])
    if attempt(flags | {"output_dir": "whole"}, options, killed=False):
        sys.exit("the whole run failed")
    kills = 0
    while status := attempt(flags | {"output_dir": "killed"}, options, killed=True):
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL or kills > 30:
            sys.exit(f"attempt {kills} ended with status {status}")
        kills += 1
    print(json.dumps({"kills": kills, "where": Path("deaths").read_text(encoding="utf-8").split()}))


if __name__ == "__main__":
    main()
