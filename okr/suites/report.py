"""report.html and report.md of a run with its suites, made from results.json and suites.json alone."""

import shlex
from pathlib import Path

from okr.experiment.layout import REPORT, RESULTS
from okr.experiment.report import Additions, markdown, render, reproduce
from okr.experiment.results import Results
from okr.jobs.folders import write_atomically
from okr.pages.sections import Plot, Section
from okr.suites.plots import suite_plots
from okr.suites.runner import SUITES_FILE, SuiteResults
from okr.suites.tables import attack_tables, baseline_tables, failed_table, quality_tables
from okr.suites.weaknesses import NULLS, text_test, weakness

MARKDOWN = "report.md"


def write_reports(folder: Path) -> None:
    """Write report.html and report.md from what lies in ``folder``. Raises InvalidConfig."""
    results = Results.load(folder / RESULTS)
    suites = SuiteResults.load(folder / SUITES_FILE) if (folder / SUITES_FILE).exists() else None
    command = reproduce_with(results, suites)
    added = Additions(command=command)
    if suites:
        added = Additions(sections(suites), weakness(suites), text_test(suites), command)
    for name, page in ((REPORT, render), (MARKDOWN, markdown)):
        write_atomically(folder / name, page(results, added))


def reproduce_with(results: Results, suites: SuiteResults | None) -> str:
    """The command that repeats the run with its suites."""
    command = reproduce(results)
    return command if suites is None else f"{command} {shlex.join(suite_words(suites))}"


def suite_words(suites: SuiteResults) -> list[str]:
    """The words of a command line that asks for these suites."""
    options = suites.options
    words = ["--suite", "all" if len(suites.suites) > 1 else suites.suites[0]]
    words += ["--quick"] if options.quick else []
    defaults = type(options)()
    if not options.quick:
        words += [
            word
            for name in ("samples", "tokens", "decoys")
            if getattr(options, name) != getattr(defaults, name)
            for word in (f"--suite-{name}", str(getattr(options, name)))
        ]
    for name in ("judge", "paraphraser", "pairs", "choices"):
        value = getattr(options, name)
        words += [f"--{name}", value] if value is not None else []
    return [*words, "--human-eval"] if options.human_eval else words


def sections(suites: SuiteResults) -> list[Section]:
    """What the suites found, under headings."""
    plots = suite_plots(suites)

    def shown(*names: str) -> tuple[Plot, ...]:
        return tuple(Plot(plots[name], CAPTIONS[name]) for name in names if name in plots)

    parts = (
        Section("Beside other watermarks", (), shown("power", "cost"), tuple(baseline_tables(suites))),
        Section("What it does to quality", (), shown("registers"), tuple(quality_tables(suites))),
        Section("What it survives", (), shown("attacks", "changes"), tuple(attack_tables(suites))),
    )
    failed = failed_table(suites)
    missing = [] if failed is None else [Section("What is missing", (), (), (failed,))]
    return [*(part for part in parts if part.tables), Section("What the tests assume", NULLS), *missing]


CAPTIONS = {
    "power": "Share of texts found against their length, 95% Clopper-Pearson intervals.",
    "cost": "Share of texts found against what the method costs, 95% intervals of both.",
    "registers": "What the key adds to the loss on held-out text, by register; 95% intervals over passages.",
    "attacks": "Share of texts found after each attack, 95% Clopper-Pearson intervals; 0: the untouched text. Where an "
    "attack has one strength only, it stands at 1.",
    "changes": "Texts and traces of a changed model, tested with the unchanged one; 95% Clopper-Pearson intervals.",
}
