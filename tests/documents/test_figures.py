"""Figures in the documentation are what their commands give: parts of the commands run again."""

import json
import re
from pathlib import Path

import pytest
from scripts import script

import okr
from okr.pages.markdown import rows_table

ROOT = Path(__file__).resolve().parents[2]


def row(page, command, zone, epsilon, strength):
    """The cells behind a setting in the table that follows ``command``."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"`{command}`")[2]
    return re.search(rf"^\| {zone} \| {epsilon} \| {strength} \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")


@pytest.mark.parametrize(
    ("model", "zone", "epsilon", "strength"),
    [("tiny-deepseek-moe", "max", 2.0, "inf"), ("tiny-switch", "boundary", "inf", 4.0)],
)
def test_a_row_of_the_settings_comes_out_again(model, zone, epsilon, strength):
    """Seeds and passages are the command's, so only rounding may differ."""
    bench = script("studies/settings_table")
    command = f"python studies/settings_table.py {model}"
    cost, opportunities, largest, _ = row("settings.md", command, zone, f"{float(epsilon):g}", f"{float(strength):g}")
    setting = {"zone": zone, "epsilon": float(epsilon), "strength": float(strength)}
    keys = [okr.Key.from_passphrase(f"measuring settings {i}") for i in range(bench.KEYS)]
    loaded = okr.load(model)
    again = bench.cost(loaded, keys, setting)
    assert [float(part) for part in again.split(" ± ")] == pytest.approx(
        [float(part) for part in cost.split(" ± ")], abs=5e-4
    )
    rate, p, _ = bench.shown(loaded, keys[0], setting)
    assert float(rate.rstrip("%")) == pytest.approx(float(opportunities.rstrip("%")), abs=10)
    assert max(float(p), float(largest)) <= 0.001


def test_the_page_on_performance_has_the_figures_that_were_measured(monkeypatch):
    bench = script("bench/performance")
    figures, text = json.loads(bench.DATA.read_text(encoding="utf-8")), bench.PAGE.read_text(encoding="utf-8")
    assert bench.page(text, bench.tables(figures)) == text


def test_the_table_of_short_traces_is_what_was_measured(monkeypatch):
    figures = json.loads((ROOT / "docs" / "data" / "short-traces.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    assert rows_table(script("studies/short_traces").shown(figures)) in page
    assert f"{figures['machine']['date']}, torch {figures['machine']['torch']}" in page


def test_the_pages_of_baked_keys_have_the_figures_that_were_measured():
    for name, text in script("studies/baked_page").pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text


def test_the_page_of_mixed_documents_has_the_figures_that_were_measured():
    assert (ROOT / "docs" / "passages.md").read_text(encoding="utf-8") == script("studies/passages_page").page()


def test_keyed_passages_are_found_again(monkeypatch):
    """Four documents made again, 30% of each keyed: each shows a span, and no span is false, at family-wise 0.01."""
    study = script("studies/passages")
    monkeypatch.setattr(study, "BATCH", 4)
    found = study.batch("quiet, the rest native", 0)["documents"]
    assert len(found) == 4
    assert all(document["spans"] and not document["false"] for document in found)
    assert sum(length for document in found for length, _ in document["passages"]) == 4 * study.KEYED


def test_short_traces_are_proven_again(monkeypatch):
    """All were within 16 tokens at this strength; so are eight texts made again, whatever rounding does."""
    for row in script("studies/short_traces").rows("tiny-deepseek-moe", 0.3, "float32", 8):
        assert row["tokens for 95%"] <= 16


def test_the_table_beside_synthid_is_what_was_measured():
    figures = json.loads((ROOT / "docs" / "data" / "beside-synthid.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "beside-synthid.md").read_text(encoding="utf-8")
    assert rows_table(figures["rows"]) in page
    assert f"{figures['machine']['date']}, torch {figures['machine']['torch']}" in page


def test_a_batch_beside_synthid_is_found_again():
    """Two texts under both watermarks: each is found, as all were."""
    found = script("studies/beside_synthid")
    found.BATCH = 2
    figures = found.batch("both", 0)
    assert max(figures["trace"]) <= 1e-6
    assert max(figures["synthid"]) <= 1e-2
