"""Running suites in the folder of a run: the plan of cells, what is kept, and suites.json."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from okr.errors import InvalidConfig
from okr.experiment.config import Resolved
from okr.experiment.prompts import read_prompts
from okr.jobs.loading import load_placed
from okr.jobs.store import write_atomically
from okr.suites.attacks import attack_cells
from okr.suites.baselines import baseline_cells
from okr.suites.cells import Cell, Ledger, Record, Watcher, run_cells
from okr.suites.figures import Figure
from okr.suites.options import SUITES, SuiteOptions
from okr.suites.quality import quality_cells
from okr.suites.samples import Bench, shortened

FOLDER, SUITES_FILE = "suites", "suites.json"
_OWN = ("judge", "paraphraser", "pairs", "choices", "human_eval")  # options that only single cells depend on


class CellResult(BaseModel):
    """How one cell ended, with its figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    suite: str
    status: Literal["done", "failed", "not available"]
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
            problem = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise InvalidConfig(f"{path} is not valid: {place}: {problem['msg']}") from None


PLANS: dict[str, Callable[[Bench, Ledger], Sequence[Cell]]] = {
    "baselines": baseline_cells,
    "quality": quality_cells,
    "attacks": attack_cells,
}


def run_suites(resolved: Resolved, options: SuiteOptions, suites: Sequence[str], watcher: Watcher) -> SuiteResults:
    """Run or go on with ``suites`` in the folder of a finished run; what earlier calls did there is kept.

    Raises InvalidConfig where the folder's suites were begun with other options, or cannot be written.
    """
    config, folder = resolved.config, Path(resolved.config.output_dir)
    prompts = read_prompts(config.model_copy(update={"samples": options.samples}))
    asked = _begin(folder / FOLDER, options, config.seed, suites)
    loaded = load_placed(config)
    bench = Bench(loaded, config, options, tuple(shortened(prompts, options.prompt_words)))
    ledger = Ledger(folder / FOLDER)
    cells: dict[str, Cell] = {}
    for suite in asked:
        cells |= {cell.name: cell for cell in PLANS[suite](bench, ledger)}
    with _threads(None if resolved.sources["threads"] == "preset" else config.threads):
        records = run_cells(list(cells.values()), ledger, watcher)
    results = assemble(options, asked, records)
    write_atomically(folder / SUITES_FILE, results.model_dump_json(indent=1) + "\n")
    return results


def assemble(options: SuiteOptions, suites: Sequence[str], records: Sequence[Record]) -> SuiteResults:
    """What suites.json holds: cells with figures, and whatever was not done."""
    kept = [record for record in records if record.figures or record.status != "done"]
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
                figures=record.figures,
            )
            for record in kept
        ],
    )


def _begin(folder: Path, options: SuiteOptions, seed: int, suites: Sequence[str]) -> list[str]:
    """Write or check the plan; all suites that the folder has been asked for so far, in the usual order."""
    path = folder / "plan.json"
    plan: dict[str, Any] = {"options": _lasting(options), "seed": seed, "suites": []}
    try:
        folder.mkdir(exist_ok=True)
        if path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                f"{name} (was {old['options'].get(name)}, now {value})"
                for name, value in plan["options"].items()
                if old["options"].get(name) != value
            ]
            if changed:
                raise InvalidConfig(f"the suites in {folder} were begun with other options: {', '.join(changed)}")
            plan["suites"] = old["suites"]
    except OSError as error:
        raise InvalidConfig(f"cannot write {folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidConfig(f"{path} is damaged: remove the folder {folder} to begin its suites again") from None
    plan["suites"] = [suite for suite in SUITES if suite in plan["suites"] or suite in suites]
    write_atomically(path, json.dumps(plan, indent=1) + "\n")
    return list(plan["suites"])


def _lasting(options: SuiteOptions) -> dict[str, Any]:
    return {name: value for name, value in options.model_dump(mode="json").items() if name not in _OWN}


@contextmanager
def _threads(count: int | None) -> Any:
    """``count`` threads, or as many as torch takes by itself: a batch of decoys gains from the second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
