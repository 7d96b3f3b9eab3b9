"""How a study does its work: task by task, kept beside its file of figures, shared by the processes of one start."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import okr
from okr.commands.running import shown
from okr.errors import InvalidConfig, OKRError
from okr.jobs.folders import write_atomically
from okr.jobs.processes import Processes, joined
from okr.jobs.store import Store
from okr.jobs.tasks import Task
from okr.jobs.working import work
from okr.pages.machine import machine

Figures = dict[str, Any]


@dataclass(frozen=True)
class Worked:
    """What the tasks of a study left, by their names in the order of the study, and on which machine.

    ``machine`` is what okr.pages.machine says, with the date on which the study began.
    """

    machine: dict[str, str]
    results: dict[str, Figures]


def worked(out: Path | None, plan: Figures, tasks: Mapping[str, Callable[[], Figures]]) -> Worked | None:
    """Do what is left of ``tasks``, and return what all of them left. Every process of ``accelerate launch`` calls
    this and does its share; all but the main one get None.

    The tasks are kept in a folder beside the file ``out``: out.json has out-tasks. A later start with the same
    ``plan`` (plain JSON), machine and versions goes on there. Without ``out`` nothing is kept. A task's name is the
    path of its file in that folder, and what stands before its last slash names its bar. Raises SystemExit with one
    line where the folder holds another plan, and where a task raises an OKRError.
    """
    try:
        with joined() as processes, shown(processes.main) as progress, ExitStack() as opened:
            folder = _folder(out, processes, opened)
            store = Store[Figures](folder, Figures, processes.rank)
            with processes.together():
                if processes.main:
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    opened.enter_context(store.locked())
                    began = _begin(store, plan)
            if not processes.main:
                opened.enter_context(store.locked())
            bars = {name: name.rpartition("/")[0] or "tasks" for name in tasks}
            pieces = [Task[Figures](name, lambda step, one=one: one(), bar=bars[name]) for name, one in tasks.items()]
            records = work(pieces, store, progress, processes)
    except OKRError as error:
        raise SystemExit(str(error)) from None
    return Worked(began, {record.name: record.result for record in records}) if processes.main else None


def tell_table(lines: Sequence[str], out: Path | None) -> None:
    """Print the lines of a Markdown table, and write them to ``out`` if it is given."""
    table = "\n".join(lines)
    print(table)
    if out is not None:
        write_atomically(out, table + "\n")


def _folder(out: Path | None, processes: Processes, opened: ExitStack) -> Path:
    """The folder of the store, the same in every process."""
    if out is not None:
        return out.with_name(f"{out.stem}-tasks")
    own = opened.enter_context(TemporaryDirectory(prefix="okr-study-", ignore_cleanup_errors=True))
    return Path(processes.from_main(own)) / "tasks"


def _begin(store: Store[Figures], plan: Figures) -> dict[str, str]:
    """Write the plan, or check that the folder was begun with it; the machine of the beginning."""
    now = plan | {"okr": okr.__version__, "machine": machine()}
    begun = store.plan(["machine"])
    if begun is None:
        store.begin(now)
        return now["machine"]
    old, new = ({**one, **one["machine"], "machine": None, "date": None} for one in (begun, now))
    changed = [f"{name} (was {old.get(name)}, now {new.get(name)})" for name in {**old, **new}
               if old.get(name) != new.get(name)]  # fmt: skip
    if changed:
        raise InvalidConfig(
            f"{store.folder} was begun with another plan: {', '.join(changed)}; remove it to begin again"
        )
    return begun["machine"]
