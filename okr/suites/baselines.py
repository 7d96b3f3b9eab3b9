"""Baselines: OKR from traces and from text, KGW, SynthID and no watermark on the same prompts."""

from collections.abc import Iterable, Sequence

import numpy as np

from okr.detection import LEAST_P
from okr.intervals import mean, share
from okr.loaders import Loaded
from okr.loaders.prediction import predict
from okr.suites.cells import Cell, Ledger, Outcome, bound, cell
from okr.suites.costs import cost_cell
from okr.suites.figures import Figure
from okr.suites.samples import METHODS, SYNTHID_DECOYS, Bench, Made, make_texts
from okr.suites.text_tests import p_values

LEVELS = (0.01, 0.001)
COSTED = ("okr", "okr louder", "kgw", "kgw louder", "synthid", "synthid shallow")


def baseline_cells(bench: Bench, ledger: Ledger) -> list[Cell]:
    """Every cell of the suite, in the order in which they need each other."""
    return [*text_cells(bench, ledger, METHODS), *_test_cells(bench, ledger), *_figure_cells(bench, ledger)]


def text_cells(bench: Bench, ledger: Ledger, methods: Iterable[str]) -> list[Cell]:
    """The costs (KGW's bias comes from them) and the texts of ``methods``, a cell a batch."""
    cells = []
    for method in COSTED:
        if method in methods:
            weight = 1.0 * bench.options.passages
            cells.append(cell(f"baselines/cost/{method}", bound(cost_cell, bench, ledger, method), weight))
    for method in methods:
        for index in range(bench.batches):
            weight = bench.options.tokens / 50
            cells.append(cell(_texts(method, index), bound(_make, bench, ledger, method, index), weight))
    return cells


def bias_of(ledger: Ledger, method: str) -> float:
    """KGW's bias, once its cost is matched; 0 for other methods."""
    return float(ledger.result(f"baselines/cost/{method}").data["bias"]) if method.startswith("kgw") else 0.0


def texts_of(ledger: Ledger, method: str, index: int) -> list[Made]:
    """The texts of a batch."""
    return [Made.of(values) for values in ledger.result(_texts(method, index)).data["texts"]]


def decoys_of(bench: Bench, method: str) -> int:
    """Decoy keys of the test of a method's own texts. The louder setting is tested less finely: it is there for the
    dependence on cost."""
    return min(99, bench.options.decoys) if method == "okr louder" else bench.options.decoys


def smallest_p(method: str, decoys: int) -> float:
    """The smallest p-value that a test can give."""
    if method.startswith("kgw"):
        return 0.0
    if "trace" in method:
        return LEAST_P
    return 1 / ((SYNTHID_DECOYS if method.startswith("synthid") else decoys) + 1)


def found_figures(
    p: np.ndarray,
    *,
    method: str,
    lengths: Sequence[int],
    smallest: float,
    condition: str = "",
    strength: float | None = None,
    measure: str = "found",
) -> list[Figure]:
    """The share of texts with p at most each level, [texts, lengths] p-values; null where no p can be that small."""
    figures = []
    for place, length in enumerate(lengths):
        for level in LEVELS:
            common = {"measure": measure, "unit": "share of texts", "method": method, "condition": condition,
                      "strength": strength, "tokens": length, "level": level, "samples": len(p)}  # fmt: skip
            if smallest > level * (1 + 1e-9):
                note = f"not measurable with {round(1 / smallest) - 1} decoys"
                figures.append(Figure(value=None, note=note, **common))  # type: ignore[arg-type]
                continue
            value, low, high = share(int((p[:, place] <= level * (1 + 1e-9)).sum()), len(p))
            figures.append(Figure(value=value, low=low, high=high, **common))  # type: ignore[arg-type]
    return figures


def _texts(method: str, index: int) -> str:
    return f"texts/{method}/{index:03d}"


def _make(bench: Bench, ledger: Ledger, method: str, index: int) -> Outcome:
    found = make_texts(bench, method, index, bias_of(ledger, method))
    found["text_loss"] = [text_loss(bench.loaded, Made.of(values)) for values in found["texts"]]
    return Outcome(data=found)


def text_loss(loaded: Loaded, made: Made) -> float:
    """Mean loss of the new tokens under the unmarked model, nats per token."""
    before = made.tokens[: made.prompt_length] if made.source is None else made.source
    return predict(loaded, before, made.new).loss()


def _test_cells(bench: Bench, ledger: Ledger) -> list[Cell]:
    """Tests of every method's texts under its own keys, and of unmarked text under the same keys."""
    cells = []
    for method in COSTED:
        heavy = method.startswith("okr")
        for made_by, keys in ((method, 0.35 * decoys_of(bench, method)), ("none", 30)):
            name = f"tests/{method}" if made_by == method else f"tests/none by {method}"
            for index in range(bench.batches):
                weight = (keys if heavy else 4) * len(bench.batch(index)) * bench.options.tokens / 12_000
                work = bound(_test, bench, ledger, method, made_by, index)
                cells.append(cell(f"{name}/{index:03d}", work, weight))
    return cells


def _test(bench: Bench, ledger: Ledger, method: str, made_by: str, index: int) -> Outcome:
    p = p_values(
        bench, method, texts_of(ledger, made_by, index), index,
        bias=bias_of(ledger, method), lengths=bench.options.lengths, decoys=decoys_of(bench, method),
    )  # fmt: skip
    return Outcome(data={"p": p.tolist()})


def _figure_cells(bench: Bench, ledger: Ledger) -> list[Cell]:
    cells = [
        cell(f"baselines/found/{method}", bound(_found, bench, ledger, method, by, kind), 0.01)
        for method, by, kind in (
            *((method, method, "own") for method in COSTED),
            *((f"{method}, trace", method, "trace") for method in ("okr", "okr louder")),
            *((f"none by {method}", method, "none") for method in COSTED),
            ("none by okr, trace", "okr", "none trace"),
        )
    ]
    return [*cells, *(cell(f"baselines/text loss/{m}", bound(_text_losses, ledger, m), 0.01) for m in METHODS)]


def _found(bench: Bench, ledger: Ledger, method: str, by: str, kind: str) -> Outcome:
    if "trace" in kind:
        made_by = "none" if "none" in kind else by
        p = np.concatenate([left.data["trace_p"] for left in ledger.results(f"texts/{made_by}/")])
    else:
        p = np.concatenate(
            [left.data["p"] for left in ledger.results(f"tests/{'none by ' if kind == 'none' else ''}{by}/")]
        )
    smallest = smallest_p("trace" if "trace" in kind else by, decoys_of(bench, by))
    measure = "false alarms" if "none" in kind else "found"
    label = method.removeprefix("none by ")
    return Outcome(found_figures(p, method=label, lengths=bench.options.lengths, smallest=smallest, measure=measure))


def _text_losses(ledger: Ledger, method: str) -> Outcome:
    losses = [loss for left in ledger.results(f"texts/{method}/") for loss in left.data["text_loss"]]
    value, low, high = mean(losses)
    common = {"measure": "text loss", "unit": "nats per token", "method": method, "samples": len(losses)}
    return Outcome([Figure(value=value, low=low, high=high, **common)])  # type: ignore[arg-type]
