"""Tables of a suite's figures, for report.html and report.md alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from okr.evidence.figures import Figure
from okr.evidence.suites import SuiteResults

LABELS = {
    "okr": "OKR, from text",
    "okr, trace": "OKR, from the trace",
    "okr louder": "OKR louder, from text",
    "okr louder, trace": "OKR louder, from the trace",
    "none by okr, trace": "no watermark, tested by OKR's trace test",
    "kgw": "KGW",
    "kgw louder": "KGW louder",
    "synthid": "SynthID",
    "synthid shallow": "SynthID, one layer",
    "none": "no watermark",
}


@dataclass(frozen=True)
class Table:
    """A table as text: ``caption`` says what the numbers are and what they were measured on."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def label(method: str) -> str:
    """What a method is called in a report."""
    return LABELS.get(method, method)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant or decimal digits, whichever is shorter to read."""
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"


def interval(figure: Figure | None, digits: int = 3) -> str:
    """A figure with its interval, or why there is none."""
    if figure is None:
        return "–"
    if figure.value is None:
        return figure.note or "not measurable"
    if figure.low is None or figure.high is None:
        return number(figure.value, digits)
    spread = f"{number(figure.low, digits)} to {number(figure.high, digits)}"
    return f"{number(figure.value, digits)} ({spread})"


def baseline_tables(results: SuiteResults) -> list[Table]:
    """Cost, power and false alarms of every method."""
    tables = [_costs(results)]
    found, alarms = results.figures("found", "baselines"), results.figures("false alarms", "baselines")
    if found:
        caption = (
            f"Share of texts found, with 95% Clopper-Pearson intervals; {_samples(found)} texts of each method, "
            f"{results.options.batch} under each key."
        )
        tables.append(by_length("Found, by length and false-positive rate", caption, found))
    if alarms:
        caption = (
            "Share of unmarked texts that the same tests would have found: it should lie at the false-positive rate or "
            "below. Tests in stages and ties keep it below."
        )
        tables.append(by_length("False alarms", caption, alarms))
    return [table for table in tables if table.rows]


def _costs(results: SuiteResults) -> Table:
    held_out = {figure.method: figure for figure in results.figures("held-out cost")}
    texts = {figure.method: figure for figure in results.figures("text loss", "baselines")}
    methods = list(dict.fromkeys([*held_out, *texts]))
    rows = [
        (label(m).removesuffix(", from text"), interval(held_out.get(m), 4), interval(texts.get(m), 3),
         held_out[m].note if m in held_out and held_out[m].value is not None else "")
        for m in methods
    ]  # fmt: skip
    return Table(
        "Cost",
        f"Added loss on {results.options.passages} held-out passages (95% interval over passages, mean of "
        f"{results.options.cost_keys} keys), and the loss of the method's own texts under the unmarked model (95% "
        "interval over texts); nats per token, both at the temperature of sampling. SynthID keeps the model's "
        "distribution on average over keys: its text loss shows that, its held-out cost, under one key, does not.",
        ("method", "held-out cost", "loss of its texts", ""),
        tuple(rows),
    )


def by_length(title: str, caption: str, figures: Sequence[Figure]) -> Table:
    """Methods down, lengths and levels across."""
    columns = sorted({(f.tokens or 0, -(f.level or 0)) for f in figures})
    at = {(f.method, f.tokens or 0, -(f.level or 0)): f for f in figures}
    rows = tuple(
        (label(method), *(interval(at.get((method, *column)), 2) for column in columns))
        for method in dict.fromkeys(f.method for f in figures)
    )
    header = ("method", *(f"{tokens} tokens, FPR {-level:g}" for tokens, level in columns))
    return Table(title, caption, header, rows)


def _samples(figures: Sequence[Figure]) -> str:
    counts = sorted({figure.samples for figure in figures})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def failed_table(results: SuiteResults) -> Table | None:
    """Cells that were not done, with the reason; None where all were."""
    rows = tuple((cell.name, cell.status, cell.reason) for cell in results.cells if cell.status != "done")
    if not rows:
        return None
    caption = "Each of these costs its own figures only. Those that failed are tried again with --resume."
    return Table("Not measured", caption, ("cell", "", "reason"), rows)
