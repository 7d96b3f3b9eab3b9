"""Runs an experiment whole in ./whole, and in ./killed as a chain of processes, each killed (SIGKILL) a little later.

``torn``: every process is killed in the middle of writing the record of its second task, so that each leaves one record
and a torn half of the next. ``files``: every process is killed just before it puts its fourth file (trace, record,
results or report) in place. Prints how many processes were killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

from okr.experiment.config import resolve
from okr.experiment.runner import run
from okr.jobs.store import Store
from okr.jobs.tasks import Record


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tear_second_record() -> None:
    keep, count = Store.keep, 0

    def torn(self: Store, record: Record) -> None:
        nonlocal count
        count += 1
        if count == 2:
            content = record.model_dump_json()
            (self.folder / ".0123.part").write_text(content[: len(content) // 2])
            die()
        keep(self, record)

    Store.keep = torn


def die_before_fourth_file() -> None:
    replace, count = Path.replace, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == 4:
            die()
        return replace(self, target)

    Path.replace = counted


SABOTAGE = {"torn": tear_second_record, "files": die_before_fourth_file}


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
        run(resolve("tiny", flags, environment={}), resume=Path("out").exists())
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
