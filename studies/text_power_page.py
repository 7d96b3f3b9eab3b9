"""Make docs/text-power.md, docs/text-power/ and their plots from what text_power.py and cost_and_evidence.py wrote.

python studies/text_power_page.py
"""

import json
import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA, PAGE, FIGURES = DOCS / "data", DOCS / "text-power.md", DOCS / "figures"
MODELS = {
    "tiny-deepseek-moe": "tiny-deepseek-moe: 64 experts, 6 active, 2 shared",
    "coarse-mixtral": "coarse-mixtral: 32 experts, 4 active, none shared",
}
HEAD = """# How much does text show?

Text shows far less than a trace, and what it shows has a price. At a cost of 0.05 nats per token nine in ten texts of
200 tokens are found, whether by OKR or by KGW. SynthID needs fewer, at no cost on average over keys.

{summaries}
Written by `python studies/text_power_page.py` from the figures of `python studies/text_power.py`; do not edit. Each
model has its tables on a page of its own.

## What was measured

The first tables are about detection from text alone at a false-positive rate of 1%. They give the share of texts that
are found, with 95% Clopper-Pearson intervals, for the first n tokens of single texts. The last two columns pool two
and four texts of 400 tokens into one test. The cost is the added loss on held-out passages in nats per token: the mean
of three keys, with a 95% interval over passages. KGW (transformers' `WatermarkLogitsProcessor`, half of the vocabulary
green) runs on the same model, from the same prompts, at a similar cost. It is scored by an exact binomial test over
distinct pairs of tokens.

## How much could a text show?

A key changes log p by small amounts that differ from key to key. Let v be their variance for a token. On text that was
not made with the key, a keyed model then loses v / 2 for each token: this is the cost. On its own text it gains v / 2.
Over n tokens the claimed key is ahead of decoys by n v, with a spread of sqrt(n v). So z = sqrt(2 cost n), to first
order in v and for every statistic. The last column of the second tables has that number. Soft keying comes within a
seventh of it, so a better statistic has little left to gain at a given cost. To find 0.95 of the texts at a
false-positive rate of 0.01, z must be 3.97, so n times the cost must be 7.9: whoever the detector is, a fixed key that
costs c nats per token needs about 7.9 / c tokens. At a cost of 0.0493 that is 160; soft keying of strength 1.55 finds
0.94 of 200. The setting `quiet`, whose cost cannot be told from zero, is out of reach for text. SynthID escapes the
bound, because its shift is drawn anew for every context and averages out.

## What does the cost buy?

The cost has two parts. One part is what all keyed models lose, whichever the key; it shows
nothing. The other is the part by which keys differ (log(m / p), where m is the mean over keys). The third tables give
both on passages. They also give the evidence of a token of the model's own text, which is its mutual information with
the key. If the evidence is e, z is about sqrt(2 e n). The yield is evidence divided by cost; it falls as the cost
grows. As far as the intervals tell, no zone that was measured yields more than soft keying without an epsilon at the
same cost, and zones with an infinite strength mostly yield less.
"""
SUMMARISED = """## {title}

{summary} [The tables](text-power/{name}.md).

![share of texts found against their length](figures/power-{name}.svg)
"""
MODEL = """# How much text shows: {title}

{summary} [What the columns mean](../text-power.md).

Sampled at temperature 1, six texts under each key; {date}, torch {torch}, CPU, float32.

"""
SUMMARY = (
    "Near a cost of 0.05, n = 200 and n = 300: {okr} by OKR (cost {okr_cost:.4f}), {kgw} by KGW (cost {kgw_cost:.4f})."
)
STATISTICS = """
This is the share of the same texts that each statistic finds, and the mean z of the first statistic beside the bound.
`detect` uses the first. p is a token's probability under a key, and q its mean over all keys.

"""
FEWER = """
With 99 decoys, p <= 0.01 asks the key to beat every one of them; with 399 decoys, to be among the best four. These are
the same texts, judged by all decoys and by the first 99:

"""
YIELD = """
What the cost buys (`python studies/cost_and_evidence.py`; 12 keys, 24 passages, 8 texts of the unkeyed model; nats per
token; 95% bootstrap intervals over passages and texts; {date}):

"""


def cell(share: list[float]) -> str:
    """A share with its interval."""
    return f"{share[0]:.2f} ({share[1]:.2f} to {share[2]:.2f})"


def table(document: dict) -> str:
    """A row a setting, cheapest first within each method."""
    lengths = list(document["lines"][0]["power"])
    heads = ["method", "setting", "texts", "decoys", "cost (95%)", *(f"n = {n}" for n in lengths)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for line in sorted(document["lines"], key=lambda line: (line["method"], line["cost"][0])):
        cost, low, high = line["cost"]
        cells = [cell(line["power"][n]) for n in lengths]
        found = [line["method"], line["setting"], str(line["texts"]), str(line.get("decoys", ""))]
        lines.append("| " + " | ".join([*found, f"{cost:.4f} ({low:.4f} to {high:.4f})", *cells]) + " |")
    return "\n".join(lines) + "\n"


def summary(document: dict) -> str:
    """What the costliest setting of either method below 0.05 nats per token finds."""
    words: dict[str, object] = {}
    for method in ("OKR", "KGW"):
        lines = [line for line in document["lines"] if line["method"] == method and line["cost"][0] <= 0.05]
        line = max(lines, key=lambda line: line["cost"][0])
        shares = [line["power"][n] for n in ("200", "300")]
        words[method.lower()] = " and ".join(f"{share:.3f} ({low:.3f} to {high:.3f})" for share, low, high in shares)
        words[f"{method.lower()}_cost"] = line["cost"][0]
    return SUMMARY.format(**words)


def statistics_table(document: dict) -> str:
    """What each statistic finds of the same texts, and z of the one in use beside what the cost allows."""
    rows = [line for line in document["lines"] if "power_of" in line]
    names, lengths = list(rows[0]["power_of"]), ("100", "200")
    heads = [f"{name}, n = {n}" for name in names for n in lengths]
    heads = ["setting", "texts", "decoys", *heads, "mean z, n = 200", "sqrt(2 cost n)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for line in sorted(rows, key=lambda line: line["cost"][0]):
        cells = [line["setting"], str(line["texts"]), str(line["decoys"])]
        cells += [f"{line['power_of'][name][n][0]:.3f}" for name in names for n in lengths]
        cells += [f"{line['z']['200']:.2f}", f"{math.sqrt(max(0.0, 2 * line['cost'][0] * 200)):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return STATISTICS + "\n".join(lines) + "\n"


def decoys_table(document: dict) -> str:
    """What more decoys are good for: the same texts, judged by the first 99 alone."""
    lengths = ("100", "200", "300")
    lines = ["| setting | decoys | " + " | ".join(f"n = {n}" for n in lengths) + " |", "|" + " --- |" * 5]
    for line in (line for line in document["lines"] if "power_of_fewer" in line):
        for decoys, power in ((99, line["power_of_fewer"]), (line["decoys"], line["power"])):
            cells = [line["setting"], str(decoys), *(cell(power[n]) for n in lengths)]
            lines.append("| " + " | ".join(cells) + " |")
    return FEWER + "\n".join(lines) + "\n" if len(lines) > 2 else ""


def yield_table(document: dict) -> str:
    """What the cost of each setting buys, cheapest first."""
    heads = ["setting", "cost", "by which keys differ", "evidence, own texts", "yield"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for line in sorted(document["lines"], key=lambda line: line["cost"][0]):
        parts = [("cost", 4), ("differing", 4), ("evidence", 4), ("yield", 2)]
        cells = ["{:.{n}f} ({:.{n}f} to {:.{n}f})".format(*line[part], n=digits) for part, digits in parts]
        lines.append("| " + " | ".join([line["setting"], *cells]) + " |")
    return YIELD.format(**document) + "\n".join(lines) + "\n"


def plot(name: str, document: dict) -> None:
    """Power against length, a line a setting."""
    style = {"svg.hashsalt": "okr", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.8, 5.2), layout="constrained")
        axes = figure.add_subplot()
        for line in document["lines"]:
            n = [int(length) for length in line["power"]]
            middle, low, high = zip(*line["power"].values(), strict=True)
            error = [
                [m - a for m, a in zip(middle, low, strict=True)],
                [b - m for m, b in zip(middle, high, strict=True)],
            ]
            style_of = "--" if line["method"] == "KGW" else "-"
            texts = f"{line['texts']} texts" + (f", {line['decoys']} decoys" if "decoys" in line else "")
            label = f"{line['method']} {line['setting']}, cost {line['cost'][0]:.3f} ({texts})"
            axes.errorbar(n, middle, yerr=error, linestyle=style_of, marker="o", markersize=3, capsize=2, label=label)
        axes.set(xscale="log", xlabel="tokens", ylabel="share of texts found, p <= 0.01", ylim=(-0.02, 1.02))
        axes.set_xticks(n, [str(length) for length in n])
        axes.minorticks_off()
        figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
        FIGURES.mkdir(parents=True, exist_ok=True)
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})


def load(kind: str = "power") -> dict[str, dict]:
    """The figures of every model that was run, ``kind`` power or efficiency."""
    paths = {name: DATA / f"{kind}-{name}.json" for name in MODELS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def render(power: dict[str, dict], efficiency: dict[str, dict]) -> dict[str, str]:
    """The pages by their place in docs/, without their plots' files."""
    pages, summaries = {}, []
    for name, document in power.items():
        words = {"title": MODELS[name], "name": name, "summary": summary(document)}
        summaries.append(SUMMARISED.format(**words))
        parts = [MODEL.format(**words, **document), table(document)]
        parts += [statistics_table(document), decoys_table(document)]
        parts += [yield_table(efficiency[name])] if name in efficiency else []
        pages[f"text-power/{name}.md"] = "".join(parts)
    return {PAGE.name: HEAD.format(summaries="\n".join(summaries)), **pages}


def main() -> None:
    power = load()
    for name, document in power.items():
        plot(f"power-{name}", document)
    for name, text in render(power, load("efficiency")).items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
