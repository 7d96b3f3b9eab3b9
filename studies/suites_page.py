"""Make docs/evidence.md, docs/evidence/ and their plots from what suites and studies/edit_robustness.py measured.

okr run tiny --setting loud --suite all --output-dir FOLDER  # and the same for tiny-switch
python studies/suites_page.py FOLDER ...              # takes the figures of these runs into docs/data
python studies/suites_page.py                         # the pages alone
"""

import argparse
import json
import shlex
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from okr.experiment.layout import RESULTS
from okr.experiment.results import Results
from okr.pages.sections import Section
from okr.pages.svg import standing_alone
from okr.suites.report import sections, suite_words
from okr.suites.runner import SUITES_FILE, SuiteResults
from okr.suites.tables import Table, interval
from okr.suites.weaknesses import NULLS, weakness

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA, PAGE, FIGURES = DOCS / "data", DOCS / "evidence.md", DOCS / "figures"
MODELS = ("tiny-deepseek-moe", "tiny-switch")
METHODS = {"okr, trace": "OKR from the trace", "okr": "OKR from the text alone", "kgw": "KGW", "synthid": "SynthID"}
PAID = {"okr, trace": "okr", "okr": "okr", "kgw": "kgw"}  # whose cost it is
ATTACKS = "What it survives"  # the section whose page says what was not measured
HEAD = """# What it costs, what it survives, how it compares

{weakness}

## Untouched text, at the same cost

At a false-positive rate of 0.01; costs in nats per token.

{compared}

`python studies/suites_page.py` writes this page and those that it leads to, from the figures of the commands that they
name; do not edit. How the tests work: [Detection](detection.md).

## The figures

| model | pages |
| --- | --- |
{models}

## Trying to make text survive edits

[Other anchors and other statistics](evidence/edits.md) were tried on {texts} texts. Anchors: {anchors_say}
Statistics: {statistics_say} None of it is built in; that page says why.

## What the tests assume

{nulls}
"""
MODEL = """# {title}: {model}

`{command}`, {date}, torch {torch}, transformers {transformers}, {device}. {missing}
[What these figures come to](../evidence.md).
"""
STRENGTHENED = """# Trying to make text survive edits

[Text that is edited](../evidence.md) soon loses its watermark. Two remedies were tried.

`python studies/edit_robustness.py --out docs/data/robustness.json`: {texts} texts of {tokens} new tokens by
tiny-deepseek-moe, six under each key, torch {torch}, CPU, float32. z says how far the true key is ahead of {decoys}
decoys, in their standard deviations, with its 95% interval over texts. The share of texts whose key is ahead of every
decoy stands in brackets. Unwatermarked text has z 0 on average, whatever is done to it.

## Anchors

The key is projected on the state that a router reads. A state depends on every token before it, so an edit changes all
states after it. Smoother anchors were tried, each at the strength at which it costs the same on held-out passages.

{anchors}
{anchors_say}

None of them is built in. The specified router decides on its own input alone ([SCORE](../../spec/text/02-score.md)), so
that a token's experts depend on no batch, padding or cache. These anchors need earlier states, or the token's
embedding, at every router.

## Statistics

p is the probability of a token under a key, and q its mean over the claimed key and all decoys. Every statistic here
treats all keys alike, so the test stays exact. The texts are the same; the anchor is the state, at strength 1.5. If the
decoys' z is skewed, a text needs a higher z to be found. The table therefore has the 99% point of the decoys' z, and
statistics are compared by how far z is above it.

{statistics}
{statistics_say}
"""


def markdown(table: Table) -> str:
    """A table of a report under a heading."""
    lines = [f"## {table.title}", "", table.caption, "", "| " + " | ".join(table.header) + " |"]
    lines.append("|" + " --- |" * len(table.header))
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def take(folder: Path) -> Path:
    """Keep the figures of a run; where they went."""
    results, suites = Results.load(folder / RESULTS), SuiteResults.load(folder / SUITES_FILE)
    config = results.config
    named = [] if config.setting is None else ["--setting", config.setting]
    document = {
        "command": shlex.join(["okr", "run", config.preset, *named, *suite_words(suites)]),
        "date": results.timings.finished[:10],
        "torch": results.environment.versions["torch"],
        "transformers": results.environment.versions["transformers"],
        "device": f"{results.environment.device}, {results.model.dtype}",
        "suites": json.loads(suites.model_dump_json()),
    }
    path = DATA / f"evidence-{results.model.source}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def load() -> dict[str, dict]:
    """What was measured, by model; and the experiments on robustness."""
    names = {name: DATA / f"evidence-{name}.json" for name in MODELS} | {"robustness": DATA / "robustness.json"}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in names.items() if path.exists()}


def suites_of(document: dict) -> SuiteResults:
    """The figures of a run."""
    return SuiteResults.model_validate(document["suites"])


def render(documents: dict[str, dict]) -> tuple[dict[str, str], dict[str, str]]:
    """The pages by their place in docs/, and their plots by file name."""
    models = {name: suites_of(documents[name]) for name in MODELS if name in documents}
    pages, plots, lines = {}, {}, []
    for name, suites in models.items():
        links = []
        for section in sections(suites):
            if section.tables and section.title != "What is missing":
                file = f"evidence/{name}-{section.title.lower().replace(' ', '-')}.md"
                pages[file] = section_page(name, documents[name], suites, section, plots)
                links.append(f"[{section.title}]({file})")
        lines.append(f"| {name} | {', '.join(links)} |")
    own = strengthened(documents["robustness"])
    pages["evidence/edits.md"] = STRENGTHENED.format(**own)
    weak = "\n\n".join(f"{name}: {words}" for name, one in models.items() if (words := weakness(one)))
    pages[PAGE.name] = HEAD.format(
        weakness=weak, compared=side_by_side(models), models="\n".join(lines), nulls="\n\n".join(NULLS), **own
    )
    return pages, plots


def section_page(name: str, document: dict, suites: SuiteResults, section: Section, plots: dict[str, str]) -> str:
    """The page of one suite of one model. Its plots join ``plots``."""
    lost = [cell for cell in suites.cells if cell.status != "done"] if section.title == ATTACKS else []
    reasons = dict.fromkeys(cell.reason for cell in lost)
    groups = [f"{', '.join(c.name for c in lost if c.reason == reason)} ({reason})" for reason in reasons]
    missing = f"Not measured: {'; '.join(groups)}." if lost else ""
    own = {part: value for part, value in document.items() if part != "suites"}
    parts = [MODEL.format(title=section.title, model=name, missing=missing, **own)]
    for number, plot in enumerate(section.plots):
        file = f"evidence-{name}-{section.title.lower().replace(' ', '-')}-{number}.svg"
        plots[file] = standing_alone(plot.svg)
        parts.append(f"\n![{plot.caption}](../figures/{file})\n")
    return "".join([*parts, *("\n" + markdown(table) for table in section.tables)])


def side_by_side(models: dict[str, SuiteResults]) -> str:
    """OKR, KGW and SynthID on untouched text at matched cost: a row a method, a column a model."""
    columns = {}
    for name, suites in models.items():
        longest = suites.options.tokens
        found = {f.method: f for f in suites.figures("found", "baselines") if (f.level, f.tokens) == (0.01, longest)}
        cost = {f.method: f for f in suites.figures("held-out cost")}
        texts = f"found of {found['okr'].samples} texts of {longest} tokens (95%)"
        columns[f"{name}: {texts}"] = {method: interval(found[method], 2) for method in METHODS}
        columns[f"{name}: cost"] = {method: interval(cost[own], 4) for method, own in PAID.items()}
    lines = ["| | " + " | ".join(columns) + " |", "|" + " --- |" * (1 + len(columns))]
    for method, said in METHODS.items():
        cells = [own.get(method, "none on average over keys") for own in columns.values()]
        lines.append(f"| {said} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(z: list[float], ahead: int) -> str:
    """Mean z with its 95% interval, and the share that is ahead of all decoys."""
    return f"{fmean(z):.2f} ± {1.96 * stdev(z) / len(z) ** 0.5:.2f} ({ahead / len(z):.2f})"


def strengthened(document: dict) -> dict[str, Any]:
    """What the page of the experiments on robustness says."""
    first, *others = document["lines"]
    own = next(iter(first["z"]))
    attacks, few = list(first["z"][own]), list(others[0]["z"][own]) if others else []
    head = " | ".join(attacks)
    anchors = [f"| anchor | strength | cost, nats per token | {' | '.join(few)} |", "|" + " --- |" * (3 + len(few))]
    for line in (first, *others):
        cells = " | ".join(cell(line["z"][own][attack], line["ahead"][own][attack]) for attack in few)
        anchors.append(f"| {line['anchor']} | {line['strength']:.2f} | {line['cost']:.4f} | {cells} |")
    statistics = [f"| statistic, summed over tokens | 99% point | {head} |", "|" + " --- |" * (2 + len(attacks))]
    for name in first["z"]:
        cells = " | ".join(cell(first["z"][name][attack], first["ahead"][name][attack]) for attack in attacks)
        statistics.append(f"| {name} | {first['point'][name]:.2f} | {cells} |")
    rivals = [(line["anchor"], line["z"][own]) for line in others]
    above = {
        name: {attack: [value - first["point"][name] for value in values] for attack, values in by_attack.items()}
        for name, by_attack in first["z"].items()
    }
    return {
        "anchors": "\n".join(anchors) + "\n",
        "anchors_say": verdicts(first["z"][own], rivals, "anchor"),
        "statistics": "\n".join(statistics) + "\n",
        "statistics_say": verdicts(above[own], [(n, z) for n, z in above.items() if n != own], "statistic"),
        **{name: document[name] for name in ("texts", "tokens", "decoys", "torch")},
    }


def verdicts(own: dict[str, list[float]], rivals: list[tuple[str, dict[str, list[float]]]], kind: str) -> str:
    """What was ahead of OKR's own by more than two standard errors of the difference over the same prompts."""
    found = []
    for attack, z in own.items():
        for name, other in rivals:
            if attack not in other:
                continue
            difference = [a - b for a, b in zip(other[attack], z, strict=True)]
            middle = sum(difference) / len(difference)
            variance = sum((d - middle) ** 2 for d in difference) / (len(difference) - 1)
            if middle > 2 * (variance / len(difference)) ** 0.5:
                found.append(f"{attack}: {name} (+{middle:.2f})")
    if not found:
        return f"No other {kind} was ahead of OKR's own by more than two standard errors of the paired difference."
    return f"Ahead of OKR's own by more than two standard errors of the paired difference: {'; '.join(found)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs with suites")
    for folder in parser.parse_args().folders:
        print(take(folder))
    pages, plots = render(load())
    for folder, files in ((DOCS, pages), (FIGURES, plots)):
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
