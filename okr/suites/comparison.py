"""Two runs side by side: settings that differ, the outcome of each, and every figure that one of them measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okr.experiment.layout import RESULTS
from okr.experiment.results import Results
from okr.pages.markdown import cell, table
from okr.suites.figures import Figure
from okr.suites.runner import SUITES_FILE, SuiteResults
from okr.suites.tables import interval, label

_NOT_COMPARED = ("output_dir", "key")


@dataclass(frozen=True)
class Line:
    """One figure in both runs; None where a run has none. ``differ``: their 95% intervals do not overlap."""

    name: str
    unit: str
    a: Figure | None
    b: Figure | None

    @property
    def differ(self) -> bool | None:
        """Whether the intervals are apart; None where one of them is missing."""
        ends = [(f.low, f.high) for f in (self.a, self.b) if f is not None and f.low is not None and f.high is not None]
        if len(ends) < 2:
            return None
        (low_a, high_a), (low_b, high_b) = ends
        return bool(high_a < low_b or high_b < low_a)  # type: ignore[operator]


@dataclass(frozen=True)
class Comparison:
    """What two folders hold."""

    names: tuple[str, str]
    settings: tuple[tuple[str, Any, Any], ...]
    lines: tuple[Line, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "runs": list(self.names),
            "settings": [{"name": name, "a": a, "b": b} for name, a, b in self.settings],
            "figures": [
                {
                    "name": line.name,
                    "unit": line.unit,
                    "a": None if line.a is None else line.a.model_dump(mode="json"),
                    "b": None if line.b is None else line.b.model_dump(mode="json"),
                    "intervals_apart": line.differ,
                }
                for line in self.lines
            ],
        }

    def markdown(self) -> str:
        """Two tables."""
        a, b = (cell(name) for name in self.names)
        lines = [f"# {a} beside {b}", ""]
        if self.settings:
            rows = [[name, cell(x), cell(y)] for name, x, y in self.settings]
            lines += ["Settings that differ:", "", table(["setting", a, b], rows)]
        else:
            lines.append("Both runs have the same settings.")
        lines += ["", "Figures with 95% intervals; marked where the intervals do not overlap.", ""]
        figures = [
            [cell(line.name), interval(line.a, 4), interval(line.b, 4), line.unit, "apart" if line.differ else ""]
            for line in self.lines
        ]
        return "\n".join([*lines, table(["figure", a, b, "unit", ""], figures)]) + "\n"


def compare(a: Path, b: Path) -> Comparison:
    """Read both folders. Raises InvalidConfig where one has no valid results.json."""
    results = Results.load(a / RESULTS), Results.load(b / RESULTS)
    suites = [SuiteResults.load(f / SUITES_FILE) if (f / SUITES_FILE).exists() else None for f in (a, b)]
    first, second = (_settings(run, suite) for run, suite in zip(results, suites, strict=True))
    settings = tuple(
        (name, first.get(name), second.get(name))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    )
    figures = [_figures(run, suite) for run, suite in zip(results, suites, strict=True)]
    lines = tuple(
        Line(name, (figures[0].get(name) or figures[1][name]).unit, figures[0].get(name), figures[1].get(name))
        for name in dict.fromkeys([*figures[0], *figures[1]])
        if any(name in own and own[name].value is not None for own in figures)
    )
    return Comparison((str(a), str(b)), settings, lines)


def _settings(results: Results, suites: SuiteResults | None) -> dict[str, Any]:
    found = {name: v for name, v in results.config.model_dump(mode="json").items() if name not in _NOT_COMPARED}
    found |= {"routers of the model": results.model.routers, "device": results.environment.device}
    if suites is not None:
        found |= {f"suite {name}": value for name, value in suites.options.model_dump(mode="json").items()}
    return found


def _figures(results: Results, suites: SuiteResults | None) -> dict[str, Figure]:
    quality, summary, timings = results.quality, results.summary, results.timings
    run = [
        _plain("samples found", "share", summary.watermarked_samples / max(1, summary.total_samples)),
        _plain("controls found", "share", summary.control_watermarked_samples / max(1, summary.control_samples)),
        _plain("hit rate", "share of free slots", summary.average_hit_rate),
        Figure(measure="cost", unit="nats per token", method="okr", value=quality.cost, low=quality.cost_low,
               high=quality.cost_high, samples=quality.passages),
        _plain("speed under the key", "new tokens per second", timings.watermarked.tokens_per_second),
        _plain("speed without", "new tokens per second", timings.control.tokens_per_second),
    ]  # fmt: skip
    cells: Sequence[Figure] = [] if suites is None else [f for cell in suites.cells for f in cell.figures]
    return {f"run: {figure.measure}": figure for figure in run} | {_name(figure): figure for figure in cells}


def _plain(measure: str, unit: str, value: float | None) -> Figure:
    return Figure(measure=measure, unit=unit, method="okr", value=value, samples=0)


def _name(figure: Figure) -> str:
    parts = [figure.measure, label(figure.method), figure.condition]
    parts += [f"{figure.strength:g}"] if figure.strength is not None else []
    parts += [f"{figure.tokens} tokens"] if figure.tokens is not None else []
    parts += [f"FPR {figure.level:g}"] if figure.level is not None else []
    return ", ".join(part for part in parts if part)
