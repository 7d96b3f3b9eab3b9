"""Make docs/calibration.md and its plots from the figures that studies/false_positives.py wrote.

python studies/false_positives_page.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from okr.intervals import share
from okr.pages.markdown import rows_table

ROOT = Path(__file__).parents[1]
DATA, PAGE, FIGURES = ROOT / "docs" / "data", ROOT / "docs" / "calibration.md", ROOT / "docs" / "figures"
LEVELS = {"trace": (5e-2, 1e-2, 1e-3, 1e-4), "text": (5e-2, 1e-2)}
HEAD = """# Are the p-values true?

Written by `python studies/false_positives_page.py` from the figures of `python studies/false_positives.py` and
`python studies/deployed_keys.py`; do not edit.

The null hypothesis of every test is that the evidence was made without knowledge of the claimed key. Then a p-value of
at most x must turn up with probability at most x, in any kind of text. A row *holds* if its 99% Clopper-Pearson
interval holds the nominal value or lies below it. Of many intervals of 99%, one in a hundred misses by chance.

Model: {model}; {date}, torch {torch}, CPU.
"""
TRACE = """
## Traces, over random keys

{texts} texts of {tokens} tokens (8 where very short) in each class, {keys:,} fresh keys on each: {total:,} tests by
`okr.verify` with {decoys} decoys, half of them for the setting quiet, half for the zone `max` with epsilon 2. Every
test has a fresh key, so that the p-values of a row are independent given its texts. Native traces are made in bfloat16
and judged in float32, because rounding then swaps experts; made in float32 hardly any has a swap, and without one p =
1 under every key. Rates lie below nominal for two reasons: the tail of a sum of signs is bounded, at 3.2 times that of
the normal distribution, and the p-value is twice the smaller of two.

"""
DEPLOYED = """
## One deployed key

A p-value is exact over random keys; a deployment lives with one key. Here {keys} keys are judged one by one on the
same native traces of {tokens} tokens: human prose, texts sampled at temperature 1, 0.5 and greedily, forms and
repetition, and code. *Above* counts the keys whose rate exceeds the level beyond chance (Clopper-Pearson, 99%,
corrected for the number of keys). The last rows of each setting are what `rank_p` would give, the rank of the matches
among decoys that decided in earlier versions, for fewer keys and traces.

{table}

`rank_p` belongs to the key, not to the text: some keys happen to suit the model's habits and are found far too often in
every text. The p-value looks only at swaps, of which native routing has none or, where rounding differs, few that know
of no key. So a key need not be chosen with care. `okr keygen --for MODEL` still judges keys on native traces of a model
before use, and writes into the key file what it saw; `okr inspect-key` does so for a key that exists.
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
            cells += [f"{hits / tests:.5f} ({low:.5f} to {high:.5f})", "yes" if low <= level else "**no**"]
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
        floor = LEVELS[document["kind"]][-1]
        axes.plot([floor, 1], [floor, 1], color="black", linestyle=":", linewidth=1, label="nominal")
        for name, found in document["classes"].items():
            values, numbers = (np.asarray(part, float) for part in found["p"])
            grid = np.geomspace(floor, 1, 240)
            below = np.concatenate(([0.0], numbers.cumsum()))[np.searchsorted(values, grid * (1 + 1e-9), side="right")]
            axes.step(grid, below / numbers.sum(), where="post", linewidth=1.4, label=name)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor / 2, 1.1))
        axes.set(xlabel="p-value (nominal false-positive rate)", ylabel="share of null tests with this p-value or less")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        path = FIGURES / f"calibration-{document['kind']}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def deployed_table(document: dict) -> str:
    """A row a setting and way of making the traces."""
    return rows_table(document["rows"])


def render(trace: dict, text: dict, deployed: dict) -> str:
    """The page, without its plots' files."""
    parts = [HEAD.format(**trace, torch=trace["versions"]["torch"])]
    for document, words in ((trace, TRACE), (text, TEXT)):
        total = sum(sum(found["p"][1]) for found in document["classes"].values())
        parts += [words.format(**document, total=total), table(document)]
        parts.append(f"\n![observed against nominal p-values](figures/calibration-{document['kind']}.svg)\n")
        if document["kind"] == "trace":
            parts += [NAIVE, naive_table(document)]
            parts.append(DEPLOYED.format(**deployed["plan"], table=deployed_table(deployed)))
    return "".join(parts)


def load(name: str) -> dict:
    """The figures of one run."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    trace, text = load("calibration-trace"), load("calibration-text")
    for document in (trace, text):
        qq_plot(document)
    PAGE.write_text(render(trace, text, load("deployed-keys")), encoding="utf-8")


if __name__ == "__main__":
    main()
