"""Running suites in the folder of a run: the plan of cells, what is kept, and suites.json."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from okr.errors import InvalidConfig
from okr.experiment.config import Resolved
from okr.experiment.prompts import read_prompts
from okr.experiment.runner import Ready, prepare
from okr.jobs.folders import write_atomically
from okr.jobs.processes import ALONE, Processes
from okr.jobs.progress import SILENT, Progress
from okr.jobs.tasks import Record, Status
from okr.jobs.threads import threads
from okr.jobs.working import work
from okr.suites.attacks import attack_cells
from okr.suites.baselines import baseline_cells
from okr.suites.cells import Cell, Ledger, Outcome
from okr.suites.figures import Figure
from okr.suites.options import SUITES, SuiteOptions
from okr.suites.quality import quality_cells
from okr.suites.samples import Bench, shortened
from okr.validation import first_problem

FOLDER, SUITES_FILE = "suites", "suites.json"
_OWN = ("judge", "paraphraser", "pairs", "choices", "human_eval")  # options that only single cells depend on


class CellResult(BaseModel):
    """How one cell ended, with its figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    suite: str
    status: Status
    reason: str
    seconds: float
    figures: list[Figure]


class SuiteResults(BaseModel):
    """suites.json: every cell that yields figures, and those that failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1.0"] = "1.0"
    options: SuiteOptions
    suites: list[str]
    seconds: float
    cells: list[CellResult]

    def figures(self, measure: str, suite: str | None = None) -> list[Figure]:
        """Every figure of one measure, in order."""
        return [
            figure
            for cell in self.cells
            if suite in (None, cell.suite)
            for figure in cell.figures
            if figure.measure == measure
        ]

    @classmethod
    def load(cls, path: Path) -> "SuiteResults":
        """Read a suites.json. Raises InvalidConfig."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
        except ValidationError as error:
            raise InvalidConfig(f"{path} is not valid: {first_problem(error).line()}") from None


PLANS: dict[str, Callable[[Bench, Ledger], Sequence[Cell]]] = {
    "baselines": baseline_cells,
    "quality": quality_cells,
    "attacks": attack_cells,
}


def run_suites(
    resolved: Resolved,
    options: SuiteOptions,
    suites: Sequence[str],
    progress: Progress = SILENT,
    processes: Processes = ALONE,
    *,
    ready: Ready | None = None,
) -> SuiteResults | None:
    """Run or go on with ``suites`` in the folder of a finished run; what earlier calls did there is kept.

    Every process calls this; the main one returns what suites.json holds, the others None. ``ready`` is the model of
    the run, where it is at hand. Raises InvalidConfig where the folder's suites were begun with other options, or
    cannot be written.
    """
    config, folder = resolved.config, Path(resolved.config.output_dir)
    with ExitStack() as opened:
        with processes.together():
            ledger = Ledger(folder / FOLDER, Outcome, processes.rank)
            asked = (
                _begin(opened.enter_context(ledger.locked()), options, config.seed, suites) if processes.main else []
            )
            prompts = read_prompts(config.model_copy(update={"samples": options.samples}))
            if ready is None:
                progress.stage(f"loading {config.model}")
                ready = prepare(resolved, processes)
        asked = processes.from_main(asked)
        if not processes.main:
            opened.enter_context(ledger.locked())
        bench = Bench(ready.loaded, config, options, tuple(shortened(prompts, options.prompt_words)), ready.engine)
        cells = {cell.name: cell for suite in asked for cell in PLANS[suite](bench, ledger)}
        opened.enter_context(threads(_threads(resolved, processes)))
        records = work(list(cells.values()), ledger, progress, processes, keep_going=True)
    if not processes.main:
        return None
    results = assemble(options, asked, records)
    write_atomically(folder / SUITES_FILE, results.model_dump_json(indent=1) + "\n")
    return results


def assemble(options: SuiteOptions, suites: Sequence[str], records: Sequence[Record[Outcome]]) -> SuiteResults:
    """What suites.json holds: cells with figures, and whatever was not done."""
    return SuiteResults(
        options=options,
        suites=list(suites),
        seconds=sum(record.seconds for record in records),
        cells=[
            CellResult(
                name=record.name,
                suite=record.name.split("/")[0],
                status=record.status,
                reason=record.reason,
                seconds=record.seconds,
                figures=record.result.figures if record.result is not None else [],
            )
            for record in records
            if record.result is None or record.result.figures
        ],
    )


def _begin(ledger: Ledger, options: SuiteOptions, seed: int, suites: Sequence[str]) -> list[str]:
    """Write or check the plan; all suites that the folder has been asked for so far, in the usual order."""
    plan: dict[str, Any] = {"options": _lasting(options), "seed": seed, "suites": []}
    old = ledger.plan(plan)
    if old is not None:
        if not isinstance(old["options"], dict) or not isinstance(old["suites"], list):
            raise ledger.damaged()
        changed = [
            f"{name} (was {old['options'].get(name)}, now {value})"
            for name, value in plan["options"].items()
            if old["options"].get(name) != value
        ]
        if changed:
            raise InvalidConfig(f"the suites in {ledger.folder} were begun with other options: {', '.join(changed)}")
        plan["suites"] = old["suites"]
    plan["suites"] = [suite for suite in SUITES if suite in plan["suites"] or suite in suites]
    if plan != old:
        ledger.begin(plan)
    return list(plan["suites"])


def _lasting(options: SuiteOptions) -> dict[str, Any]:
    return {name: value for name, value in options.model_dump(mode="json").items() if name not in _OWN}


def _threads(resolved: Resolved, processes: Processes) -> int:
    """The user's number of threads, or this process's share of the processors: a batch of decoys gains from the
    second one."""
    if resolved.sources["threads"] != "preset" and resolved.config.threads is not None:
        return resolved.config.threads
    return max(1, (os.cpu_count() or 1) // processes.local_count)
