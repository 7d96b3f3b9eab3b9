"""Make docs/calibration.md and its plots from the figures that studies/false_positives.py wrote.

python studies/false_positives_page.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from okr.intervals import share

ROOT = Path(__file__).parents[1]
DATA, PAGE, FIGURES = ROOT / "docs" / "data", ROOT / "docs" / "calibration.md", ROOT / "docs" / "figures"
LEVELS = {"trace": (5e-2, 1e-2, 1e-3), "text": (5e-2, 1e-2)}
HEAD = """# Are the p-values true?

Written by `python studies/false_positives_page.py` from the figures of `python studies/false_positives.py`; do not
edit.

The null hypothesis of every test is that the evidence was made without knowledge of the claimed key. Then a p-value of
at most x must turn up with probability at most x, in any kind of text. Every test below has a fresh key, so that the
p-values of a row are independent given its texts and Clopper-Pearson intervals (99%) are right. (Under one key the
p-values of different texts depend on each other; see [results](results.md).) A row *holds* if its interval holds the
nominal value. Of many intervals of 99%, one in a hundred misses by chance.

Model: {model}; texts of {tokens} tokens (8 where very short), half tested for soft keying of strength 1, half for
the zone `max` with epsilon 2; {date}, torch {torch}, CPU, float32.
"""
TRACE = """
## Traces

{texts} texts in each class, {keys} fresh keys on each: {total:,} tests. Each key is tested as `okr.attribute` tests
it, with one decoy after another up to {decoys}. If p <= 0.01, this is the p-value of `okr.verify` with {decoys} decoys.

"""
AGAIN = """
One row missed, at 0.001. The same texts were tested again under other keys (`--only "{name}" --first-key 400`), which
is an independent run; both are shown, and the first stays in the table above.

"""
NAIVE = """
This is what a binomial test would say on the same traces (zone `max`, epsilon 2). It takes the hits of a key over all
free slots as independent draws with the chance f / |P|. It is wrong in two ways. The slots of one token are not
independent draws, so the test finds too little in ordinary text of this length. Tokens with similar states are not
independent, so it reports too many false positives on repetitive text. OKR therefore never reports such a z-score as
evidence.

"""
TEXT = """
## Text alone

{texts} texts in each class, a fresh key for each: {total:,} tests by `okr.detect` with {decoys} decoys.

"""


def interval(hits: int, tests: int) -> tuple[float, float]:
    """The 99% Clopper-Pearson interval of a rate."""
    _, low, high = share(hits, tests, 0.99)
    return low, high


def counts(found: list[list[float]], level: float) -> tuple[int, int]:
    """Tests with p at most ``level``, and all of them."""
    values, numbers = found
    return sum(n for v, n in zip(values, numbers, strict=True) if v <= level + 1e-9), sum(numbers)


def table(document: dict) -> str:
    """A row a class, two columns a level."""
    levels = LEVELS[document["kind"]]
    lines = ["| class | tests | " + " | ".join(f"p <= {level:g} (99% interval) | holds" for level in levels) + " |"]
    lines.append("| --- |" + " --- |" * (1 + 2 * len(levels)))
    for name, found in document["classes"].items():
        cells = []
        for level in levels:
            hits, tests = counts(found["p"], level)
            low, high = interval(hits, tests)
            cells += [f"{hits / tests:.5f} ({low:.5f} to {high:.5f})", "yes" if low <= level <= high else "**no**"]
        lines.append(f"| {name} | {tests:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def naive_table(document: dict) -> str:
    """The binomial test's rates over their nominal values."""
    lines = ["| class | tests | p <= 0.01 | times nominal | p <= 0.001 | times nominal |", "| --- |" + " --- |" * 5]
    for name, found in document["classes"].items():
        cells = []
        for level in (1e-2, 1e-3):
            hits, tests = counts(found["naive"], level)
            cells += [f"{hits / tests:.4f}", f"{hits / tests / level:.1f}"]
        lines.append(f"| {name} | {tests:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def qq_plot(document: dict) -> None:
    """Observed against nominal p-values on logarithmic axes, a line a class, as an SVG."""
    style = {"svg.hashsalt": "okr", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(6, 4.4), layout="constrained")
        axes = figure.add_subplot()
        floor = 1 / (document["decoys"] + 1)
        axes.plot([floor, 1], [floor, 1], color="black", linestyle=":", linewidth=1, label="nominal")
        for name, found in document["classes"].items():
            values, numbers = (np.asarray(part, float) for part in found["p"])
            axes.step(values, numbers.cumsum() / numbers.sum(), where="post", linewidth=1.4, label=name)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor / 2, 1.1))
        axes.set(xlabel="p-value (nominal false-positive rate)", ylabel="share of null tests with this p-value or less")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        path = FIGURES / f"calibration-{document['kind']}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def render(trace: dict, text: dict, again: dict) -> str:
    """The page, without its plots' files; ``again`` is the second run of the class that missed."""
    parts = [HEAD.format(**trace, torch=trace["versions"]["torch"])]
    for document, words in ((trace, TRACE), (text, TEXT)):
        total = sum(sum(found["p"][1]) for found in document["classes"].values())
        parts += [words.format(**document, total=total), table(document)]
        parts.append(f"\n![observed against nominal p-values](figures/calibration-{document['kind']}.svg)\n")
        if document["kind"] == "trace":
            parts += [AGAIN.format(name=next(iter(again["classes"]))), table(again), NAIVE, naive_table(document)]
    return "".join(parts)


def load(kind: str) -> dict:
    """The figures of one run."""
    return json.loads((DATA / f"calibration-{kind}.json").read_text(encoding="utf-8"))


def main() -> None:
    trace, text = load("trace"), load("text")
    for document in (trace, text):
        qq_plot(document)
    PAGE.write_text(render(trace, text, load("trace-again")), encoding="utf-8")


if __name__ == "__main__":
    main()
