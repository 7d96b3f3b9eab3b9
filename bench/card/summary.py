"""What the figures of all steps say about what was promised, as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from okr import files
from okr.pages.markdown import rows_table

HOLDS, FAILS, OPEN, NONE = "holds", "does not hold", "not decided", "not measured"
Figures = Mapping[str, Any]


class Row(NamedTuple):
    """A line of the summary: what was promised, what was measured, with its 95% interval, and what follows."""

    what: str
    promised: str
    figure: str
    interval: str
    verdict: str


def below(ratio: Mapping[str, Any], limit: float) -> str:
    """Whether a ratio keeps to ``limit``: all of its interval does, nothing of it does, or that is not decided."""
    if ratio["low"] is None:
        return OPEN
    return HOLDS if ratio["high"] <= limit else FAILS if ratio["low"] > limit else OPEN


def worst(what: str, limit: float, ratios: Mapping[str, Mapping[str, Any]], missing: Sequence[str] = ()) -> Row:
    """The row of several ratios that all must keep to ``limit``, with the largest of them. ``missing`` are cases
    without a figure."""
    promised = f"at most {limit:g}"
    if not ratios:
        return Row(what, promised, "", "", NONE)
    found = [below(ratio, limit) for ratio in ratios.values()]
    name = max(ratios, key=lambda case: ratios[case]["ratio"])
    said = f"{ratios[name]['ratio']:.3f}" + (f" ({name}, the largest of {len(ratios)})" if len(ratios) > 1 else "")
    said += "".join(f"; no figure: {case}" for case in missing)
    verdict = FAILS if FAILS in found else OPEN if OPEN in found or missing else HOLDS
    return Row(what, promised, said, span(ratios[name]), verdict)


def span(ratio: Mapping[str, Any]) -> str:
    """The interval of a ratio in words."""
    return "" if ratio["low"] is None else f"{ratio['low']:.3f} to {ratio['high']:.3f}"


def suite_row(figures: Figures) -> Row:
    """All tests ran and passed; one may be skipped for want of real weights."""
    tests = figures.get("tests", {}).values()
    count = {kind: sum(test["outcome"] == kind for test in tests) for kind in ("passed", "failed", "skipped")}
    wrong = [test for test in tests if test["outcome"] == "skipped" and "weights" not in test["said"]]
    collected = figures.get("collected", 0)
    said = ", ".join(f"{number} {kind}" for kind, number in count.items()) + f" of {collected} collected"
    complete = sum(count.values()) == collected > 0 and "exit status" in figures
    verdict = FAILS if count["failed"] or wrong else HOLDS if complete and figures["exit status"] == 0 else NONE
    return Row("`pytest -m gpu`", "all pass", said, "", verdict)


def experiment_row(figures: Figures) -> Row:
    """The guide's experiment."""
    if "largest p" not in figures:
        return Row("the guide's experiment", "`results.json` is valid", "", "", NONE)
    said = "{watermarked} of {samples} samples found, {controls watermarked} controls; hit rate {hit rate:.4f}"
    holds = figures["watermarked"] == figures["samples"] and not figures["controls watermarked"]
    return Row("the guide's experiment", "`results.json` is valid, all samples found", said.format(**figures), "",
               HOLDS if holds else FAILS)  # fmt: skip


def cost_rows(figures: Figures) -> list[Row]:
    """Decoding and prefill."""
    rows = []
    for kind in ("decode", "prefill"):
        cases = {name: found for name, found in figures.items() if name.startswith(kind)}
        ratios = {name: found["keyed / unkeyed"] for name, found in cases.items() if "error" not in found}
        rows.append(worst(f"{kind}, keyed / unkeyed", 1.02, ratios, [name for name in cases if name not in ratios]))
    return rows


def router_rows(figures: Figures) -> list[Row]:
    """The router alone."""
    settings = {name: found for name, found in figures.items() if isinstance(found, dict) and "keyed / native" in found}
    return [
        worst(what, limit, {name: found[ratio] for name, found in settings.items()})
        for what, limit, ratio in (
            ("the keyed router / native", 1.10, "keyed / native"),
            ("the keyed router / the time to move its bytes", 1.5, "keyed / bound"),
        )
    ]


def hits_row(figures: Figures) -> Row:
    """Every sample of the batch."""
    what, promised = "bfloat16, batch 8 judged at batch 1", "hit rate at least 0.99, p at most 1e-3, every sample"
    if not figures:
        return Row(what, promised, "", "", NONE)
    rate, p = min(found["hit rate"] or 0.0 for found in figures.values()), max(found["p"] for found in figures.values())
    verdict = NONE if len(figures) < 8 else HOLDS if rate >= 0.99 and p <= 1e-3 else FAILS
    return Row(what, promised, f"least hit rate {rate:.4f}, largest p {p:.1e}, {len(figures)} samples", "", verdict)


def memory_row(figures: Figures) -> Row:
    """What a key adds; nothing was promised."""
    shares = {name: found for name, found in figures.items() if "share" in found}
    said = [f"{found['added'] / 2**20:,.1f} MiB, {found['share']:.2%} of the model, at {name}"
            for name, found in shares.items()]  # fmt: skip
    return Row("memory that a key adds at the peak", "", "; ".join(said), "", "" if said else NONE)


def rows(steps: Mapping[str, Figures]) -> list[Row]:
    """Every row, from the figures of the steps by name."""
    names = ("tests", "experiment", "cost", "router", "verification", "hit-rates", "memory", "compiled")
    figures = {name: steps.get(name, {}).get("figures", {}) for name in names}
    verify = {name: found for name, found in figures["verification"].items() if name == "verify / generate"}
    compiled = {name: found["keyed / unkeyed"] for name, found in figures["compiled"].items() if name != "layers"}
    return [
        suite_row(figures["tests"]),
        experiment_row(figures["experiment"]),
        *cost_rows(figures["cost"]),
        *router_rows(figures["router"]),
        worst("verification with 999 decoys / generation at batch 1", 1.0, verify),
        hits_row(figures["hit-rates"]),
        memory_row(figures["memory"]),
        worst("decode step under torch.compile, keyed / unkeyed", 1.02, compiled),
    ]


def write(folder: Path, steps: Mapping[str, Figures]) -> str:
    """Write ``summary.json`` and ``summary.md`` into ``folder``, and return the latter."""
    found = [row._asdict() for row in rows(steps)]
    state = [
        {"step": name, "whole": step["whole"], "seconds": step["seconds"], "error": step.get("error", "")}
        for name, step in steps.items()
    ]
    about = next((step["machine"] for step in steps.values() if "machine" in step), {})
    document = {"machine": about, "rows": found, "steps": state}
    on = ", ".join(f"{name} {what}" for name, what in about.items())
    text = f"{on}\n\n{rows_table(found)}\n\n{rows_table(state)}\n" if state else "No step has run.\n"
    files.replace(folder / "summary.json", (json.dumps(document, indent=1) + "\n").encode())
    files.replace(folder / "summary.md", text.encode())
    return text
