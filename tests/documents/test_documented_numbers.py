"""Numbers in the documentation: pages are what their data say, defaults are the program's, parts are measured again.

Pages with tests of their own: calibration.md and text-power.md (test_study_pages.py), settings.md (test_figures.py),
embedded-models.md (loaders/test_embedded.py), families.md (discovery), README.md (test_readme.py;
tools/readme_figures.py, in .ci/run).
"""

import json
import re
from pathlib import Path

import pytest
from scipy.stats import binom
from scripts import script

import okr
from okr.experiment.config import RunConfig, resolve
from okr.experiment.prompts import read_prompts
from okr.jobs.tasks import Record
from okr.loaders import passages
from okr.routing import NAMED
from okr.suites.baselines import bias_of
from okr.suites.cells import Ledger, Outcome
from okr.suites.costs import cost_cell
from okr.suites.options import QUICK, SuiteOptions
from okr.suites.samples import Bench, make_texts, shortened

ROOT = Path(__file__).resolve().parents[2]
PRESETS = {"tiny-deepseek-moe": "tiny", "tiny-switch": "tiny-switch"}


def rows(page, header):
    """The rows of the table that begins with ``header``, as lists of cells."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"{header}\n")[2]
    lines = text.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def evidence():
    report = script("studies/suites_page")
    return report, report.load()


def test_the_pages_of_evidence_say_what_their_figures_say(evidence):
    report, documents = evidence
    pages, plots = report.render(documents)
    assert {name: (report.DOCS / name).read_text(encoding="utf-8") for name in pages} == pages
    assert {f"evidence/{path.name}" for path in (report.DOCS / "evidence").glob("*.md")} | {"evidence.md"} == set(pages)
    shown = {path.name for path in report.FIGURES.glob("evidence-*.svg")}
    assert shown == set(plots)
    assert all(any(name in page for page in pages.values()) for name in plots)


def test_the_page_begins_with_where_okr_is_weak(evidence):
    report, _ = evidence
    first = report.PAGE.read_text(encoding="utf-8").split("\n\n")[1]
    assert "OKR is weak where the text is edited" in first


def test_the_comparison_has_enough_samples(evidence):
    """OKR from text and trace, KGW and SynthID at matched cost, at both rates, with intervals, on 200 texts or more."""
    report, documents = evidence
    suites = report.suites_of(documents["tiny-deepseek-moe"])
    found = [f for f in suites.figures("found", "baselines") if f.value is not None]
    for method in ("okr", "okr, trace", "kgw", "synthid"):
        own = [f for f in found if f.method == method]
        assert {f.level for f in own} == {0.01, 0.001}
        assert all(f.samples >= 200 and f.low <= f.value <= f.high for f in own)
    cost = {f.method: f.value for f in suites.figures("held-out cost")}
    assert cost["kgw"] == pytest.approx(cost["okr"], rel=1e-3)


@pytest.mark.parametrize("model", PRESETS)
def test_costs_and_one_batch_of_evidence_come_out_again(evidence, model, tmp_path):
    """Costs depend on no chance but rounding. The batch has the page's seeds; were they others, so many or so few of
    its texts would be found less than once in a million runs, the true share lying in the page's interval."""
    report, documents = evidence
    suites = report.suites_of(documents[model])
    config = resolve(PRESETS[model], {"setting": "loud", "output_dir": "unused", "threads": 1}, environment={}).config
    prompts = read_prompts(config.model_copy(update={"samples": suites.options.samples}))
    bench = Bench(okr.load(model), config, suites.options, tuple(shortened(prompts, suites.options.prompt_words)))
    ledger = Ledger(tmp_path, Outcome)
    written = {f.method: f for f in suites.figures("held-out cost")}
    for method in ("okr", "kgw"):
        outcome = cost_cell(bench, ledger, method)
        (figure,) = outcome.figures
        for part in ("value", "low", "high"):
            assert getattr(figure, part) == pytest.approx(getattr(written[method], part), abs=5e-4)
        name = f"baselines/cost/{method}"
        ledger.records[name] = Record(name=name, status="done", seconds=0, result=outcome)
    made = make_texts(bench, "okr", 0, bias_of(ledger, "okr"))
    p = [by_length[-1] for by_length in made["trace_p"]]
    shown = next(
        f for f in suites.figures("found", "baselines")
        if f.method == "okr, trace" and f.level == 0.01 and f.tokens == suites.options.tokens
    )  # fmt: skip
    low, high = binom.ppf(5e-7, len(p), shown.low), binom.ppf(1 - 5e-7, len(p), shown.high)
    assert low <= sum(value <= 0.01 + 1e-12 for value in p) <= high


def test_z_after_edits_comes_out_again(evidence):
    """The cost again, and two fresh texts with OKR's own anchor: their mean z lies within five standard errors of the
    page's (once in a million runs it would not, z being about normal)."""
    _, documents = evidence
    bench = script("studies/edit_robustness")
    first = documents["robustness"]["lines"][0]
    loaded = okr.load(bench.MODEL)
    assert bench.cost(loaded, first["strength"], first["anchor"]) == pytest.approx(first["cost"], abs=5e-4)
    assert documents["robustness"]["tokens"] == bench.TOKENS
    bench.PER_KEY = 2
    bench.ATTACKS = {name: bench.ATTACKS[name] for name in ("untouched", "10% substituted")}
    found = bench.scored(loaded, first["strength"], first["anchor"], 1)
    for attack, matrices in found.items():
        z = [bench.z_of(bench.STATISTICS[next(iter(bench.STATISTICS))](matrix)) for matrix in matrices]
        written = first["z"]["log(0.9 p + 0.1 q) (OKR)"][attack]
        spread = (sum((value - sum(written) / len(written)) ** 2 for value in written) / len(written)) ** 0.5
        assert abs(sum(z) / len(z) - sum(written) / len(written)) <= 5 * spread / len(z) ** 0.5 + 0.1


def test_costs_of_the_page_of_power_come_out_again():
    bench = script("studies/text_power")
    written = json.loads((ROOT / "docs" / "data" / "power-tiny-deepseek-moe.json").read_text(encoding="utf-8"))
    cheapest = min((line for line in written["lines"] if line["method"] == "OKR"), key=lambda line: line["cost"][0])
    zone, epsilon, strength = re.fullmatch(r"(\w+) ([\d.inf]+)(?:, strength ([\d.]+))?", cheapest["setting"]).groups()
    loaded = okr.load("tiny-deepseek-moe")
    texts = [passage.text for passage in passages(200)[-30:]]
    native, added = bench.losses(loaded, texts), []
    for number in range(3):
        setting = {"zone": zone, "epsilon": float(epsilon), "strength": float(strength or "inf")}
        with okr.watermark(loaded.model, bench.key("cost", number), **setting):
            added.append(bench.losses(loaded, texts))
    cost = sum(map(sum, added)) / (3 * len(texts)) - sum(native) / len(texts)
    assert cost == pytest.approx(cheapest["cost"][0], abs=5e-4)


def test_what_the_cost_buys_comes_out_again(monkeypatch):
    """A quarter of the texts: within five standard errors, which the intervals of the page give."""
    bench = script("studies/cost_and_evidence")
    written = json.loads((ROOT / "docs" / "data" / "efficiency-tiny-deepseek-moe.json").read_text(encoding="utf-8"))
    line = next(line for line in written["lines"] if line["setting"] == "boundary 1")
    monkeypatch.setattr(bench, "OWN", bench.OWN // 4)
    loaded = okr.load("tiny-deepseek-moe")
    human, own = bench.texts(loaded)
    found = bench.measured(loaded, ("boundary", 1.0, float("inf")), human[::4], own)
    for part in ("cost", "differing", "evidence"):
        said, low, high = line[part]
        assert found[part][0] == pytest.approx(said, abs=5 * 2 * (high - low) / 3.92), part


def test_changed_models_give_the_hit_rates_of_the_threat_model(monkeypatch):
    """The same seeds and traces; rounding may change single tokens of them."""
    bench = script("studies/key_recovery")
    chosen = ("not changed", "rounded to 4 bits")
    monkeypatch.setattr(bench, "CHANGES", {name: bench.CHANGES[name] for name in chosen})
    lines = bench.changes(okr.load("tiny-deepseek-moe"), NAMED["quiet"])
    page = {
        row[0]: row for row in rows("threat-model.md", "| the model was | hit rate | chance | traces with p <= 0.001 |")
    }
    assert list(lines) == list(chosen)
    for line in lines.values():
        name, hit, chance, found = [cell.strip() for cell in line().strip("|").split("|")]
        assert float(hit) == pytest.approx(float(page[name][1]), abs=0.02)
        assert float(chance) == pytest.approx(float(page[name][2]), abs=0.02)
        found, before = (int(cell.split()[0]) for cell in (found, page[name][3]))
        assert abs(found - before) <= 2


def test_a_learnt_key_gives_the_hit_rates_of_the_threat_model(monkeypatch):
    """Learnt from the same first tokens, tried on fewer traces."""
    bench = script("studies/key_recovery")
    whole = bench.keyed_evidence
    monkeypatch.setattr(bench, "TOKENS", (250,))

    def part(loaded, texts, key, setting):
        return whole(loaded, texts[: 5 if len(texts) > 20 else 6], key, setting)

    monkeypatch.setattr(bench, "keyed_evidence", part)
    lines = [line() for line in bench.recovery(okr.load("tiny-deepseek-moe"), NAMED["quiet"]).values()]
    header = "| tokens of traces seen | hit rate on other traces | rounded to +1/-1 | bits of the key right |"
    page = {row[0]: row for row in rows("threat-model.md", header)}
    found = {line.strip("|").split("|")[0].strip(): line.strip("|").split("|") for line in lines}
    for name in ("none: another key", "250", "the key itself"):
        assert float(found[name][1]) == pytest.approx(float(page[name][1]), abs=0.04)


def test_defaults_of_the_command_line_are_the_programs():
    fields = RunConfig.model_fields
    for name, _, default, _ in rows("cli.md", "| name | flag | default | meaning |"):
        own = [fields[part.strip("` ")].default for part in name.split(",")]
        if re.fullmatch(r"[\d.]+", default):
            assert own == [pytest.approx(float(default))], name


def test_sizes_of_the_suites_are_the_programs():
    table = {row[0].strip("`"): row for row in rows("suites.md", "| flag | default | `--quick` | meaning |")}
    usual = SuiteOptions()
    for name in ("samples", "tokens", "decoys"):
        assert table[f"--suite-{name}"][1:3] == [str(getattr(usual, name)), str(QUICK[name])]
    attacked = re.search(r"at most (\d+) \((\d+)\)", table["--suite-samples"][3])
    assert attacked.groups() == (str(usual.attacked), str(QUICK["attacked"]))
    assert f"{usual.attacked_decoys} of an attacked" in table["--suite-decoys"][3]
