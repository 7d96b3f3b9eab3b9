"""The reports in conformance/reports. ``python -m okr.spec.published`` rewrites their table in docs/reports.md."""

from pathlib import Path

from okr.pages.markdown import cell, table

from . import levels, registry
from .report import schema
from .report.publication import vectors_digest
from .report.schema import ConformanceReport

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "conformance" / "reports"
DOCUMENT = ROOT / "docs" / "reports.md"
BEGIN, END = "<!-- reports: begin -->", "<!-- reports: end -->"


def stored() -> dict[str, ConformanceReport]:
    """The reports in the repository by file name, in its order. Raises ValueError for one that is not valid."""
    return {path.name: schema.read(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))}


def _row(report: ConformanceReport) -> list[str]:
    made = report.implementation
    name = f"[{cell(made.name)}]({made.url})" if made.url.startswith("http") else f"{cell(made.name)} (`{made.url}`)"
    standing = {tally.level: tally for tally in report.tallies}
    said = [_short(standing.get(level)) for level in levels.LEVELS]
    return [name, cell(made.version), f"{report.profile}{age(report)}", *said, report.date.isoformat()]


def age(report: ConformanceReport) -> str:
    """What has changed since."""
    spec = report.specification
    if spec.version != registry.VERSION:
        return f" (specification {spec.version})"
    if not report.current:
        return " (other clauses)"
    return " (other vectors)" if spec.vectors != vectors_digest() else ""


def _short(tally: levels.Tally | None) -> str:
    if tally is None or not tally.applies:
        return ""
    return "yes" if tally.conforms else f"{tally.passed} of {tally.clauses - tally.not_applicable}"


def render() -> str:
    """The content of docs/reports.md, with the table made anew."""
    header = ["implementation", "version", "profile", *levels.LEVELS, "date"]
    rows = sorted(map(_row, stored().values()), key=lambda row: row[0].lower())
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table(header, rows)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(render(), "utf-8")
