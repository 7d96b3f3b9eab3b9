"""Runs an experiment whole in ./whole, and in ./killed as a chain of processes, each killed (SIGKILL) a little later.

``journal``: every process is killed in the middle of writing its second journal line, so that each leaves one line and
a torn half of the next. ``files``: every process is killed just before it puts its third file (trace, results or
report) in place. Prints how many processes were killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

from small_runs import Silent

from okr.experiment.config import resolve
from okr.experiment.runner import run
from okr.jobs.store import Journal


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tear_second_line() -> None:
    whole, count = Journal._write, 0

    def write(self: Journal, record: dict) -> None:
        nonlocal count
        count += 1
        if count == 2:
            line = json.dumps(record).encode()
            self._file.write(line[: len(line) // 2])
            self._file.flush()
            die()
        whole(self, record)

    Journal._write = write


def die_before_third_file() -> None:
    replace, count = Path.replace, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == 3:
            die()
        return replace(self, target)

    Path.replace = counted


SABOTAGE = {"journal": tear_second_line, "files": die_before_third_file}


def attempt(folder: str, flags: dict, sabotage: object) -> int:
    """Run or resume in ``folder`` in a process of its own; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        Path(folder).mkdir(exist_ok=True)
        os.chdir(folder)
        if callable(sabotage):
            sabotage()
        run(resolve("tiny", flags, environment={}), resume=Path("out").exists(), progress=Silent())
        code = 0
    except Exception as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(code)


def main() -> None:
    where, flags = sys.argv[1], json.loads(sys.argv[2])
    if attempt("whole", flags, None):
        sys.exit("the whole run failed")
    kills = 0
    while status := attempt("killed", flags, SABOTAGE[where]):
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL or kills > 40:
            sys.exit(f"attempt {kills} ended with status {status}")
        kills += 1
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
