"""report.html and report.md of a run with its suites, made from results.json and suites.json alone."""

import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup, escape

from okr.experiment.report import FILTERS, headline, render, reproduce
from okr.experiment.results import Results
from okr.jobs.store import REPORT, RESULTS, write_atomically
from okr.suites.plots import suite_plots
from okr.suites.runner import SUITES_FILE, SuiteResults
from okr.suites.tables import Table, attack_tables, baseline_tables, failed_table, quality_tables
from okr.suites.weaknesses import NULLS, weakness

MARKDOWN = "report.md"


@dataclass(frozen=True)
class Plot:
    """A plot and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One heading of a report."""

    title: str
    text: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


def write_reports(folder: Path) -> None:
    """Write report.html and report.md from what lies in ``folder``. Raises InvalidConfig."""
    results = Results.load(folder / RESULTS)
    suites = SuiteResults.load(folder / SUITES_FILE) if (folder / SUITES_FILE).exists() else None
    found = sections(suites) if suites else []
    first = weakness(suites) if suites else ""
    command = reproduce_with(results, suites)
    part = Markup(_environment(html=True).from_string(_template("suites.html")).render(sections=found).strip())  # noqa: S704
    write_atomically(folder / REPORT, render(results, suites=part, weakness=first, command=command))
    write_atomically(folder / MARKDOWN, markdown(results, found, first, command))


def markdown(results: Results, found: list[Section], first: str, command: str) -> str:
    """report.md as text."""
    page = _environment(html=False).from_string(_template("report.md"))
    text = page.render(
        results=results,
        summary=results.summary,
        config=results.config,
        headline=headline(results),
        weakness=first,
        sections=found,
        command=command,
    )
    text = re.sub(r"(\|\n)\n+(?=\|)", r"\1", text)  # the rows of a table follow each other
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


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
        return tuple(Plot(Markup(plots[name]), CAPTIONS[name]) for name in names if name in plots)  # noqa: S704

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


def _template(name: str) -> str:
    return files("okr.suites").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _environment(*, html: bool) -> Environment:
    environment = Environment(
        autoescape=html,  # noqa: S701 - Markdown is no HTML; its cells are escaped by a filter undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS | {"cell": _cell, "ends": _ends}
    return environment


def _ends(text: str) -> Markup:
    """A cell of a table in HTML; the ends of an interval stay on one line."""
    return Markup(re.sub(r"(\(\S+ to \S+\))$", r'<span class="ends">\1</span>', str(escape(text))))  # noqa: S704


def _cell(text: str) -> str:
    """Text that stays in its cell and is no markup."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\|<>\[\]`*_])", r"\\\1", flat)
