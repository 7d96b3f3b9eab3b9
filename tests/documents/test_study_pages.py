"""The calibration evidence: its page says what its figures say, and a small part of it is run again."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from scripts import script

import okr

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_says_what_the_figures_say():
    report = script("studies/false_positives_page")
    runs = [report.load(name) for name in ("calibration-trace", "calibration-text", "deployed-keys")]
    assert report.PAGE.read_text(encoding="utf-8") == report.render(*runs)


def test_misses_are_as_rare_as_chance_makes_them():
    """36 intervals of 99%: more than 6 misses happen with probability below 1e-6 if every test is exact."""
    report = script("studies/false_positives_page")
    page = report.PAGE.read_text(encoding="utf-8")
    assert binom.sf(6, 36, 0.01) < 1e-6
    assert page.count("| **no**") <= 6


def test_enough_was_run():
    report = script("studies/false_positives_page")
    for kind, least in (("trace", 600_000), ("text", 2_000)):
        classes = report.load(f"calibration-{kind}")["classes"]
        assert sum(sum(found["p"][1]) for found in classes.values()) >= least
        assert len(classes) == 6


def test_the_page_says_how_often_keys_were_named():
    found = json.loads((ROOT / "docs" / "data" / "attribution.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    for origin in ("one of the keys", "another key", "no key"):
        part = found[origin]
        assert f"in {part['named']} of {part['traces']} ({part['low']:.2f} to {part['high']:.2f})" in page


@pytest.mark.parametrize(("hits", "tests"), [(0, 50), (3, 400), (400, 400)])
def test_intervals_are_clopper_and_pearson_s(hits, tests):
    expected = binomtest(hits, tests).proportion_ci(0.99, "exact")
    assert script("studies/false_positives_page").interval(hits, tests) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("name", ["templated and repetitive", "very short"])
def test_null_tests_of_the_hardest_classes_run_again(name):
    """240 fresh keys on two texts: more than 33 at p <= 0.05, or 158 at 0.5, happen with probability below 1e-6 (12
    and 120 expected); fewer than 83 above 0.5 likewise (of a native trace they may be 1)."""
    study, loaded = script("studies/false_positives"), okr.load("tiny-deepseek-moe")
    p = np.concatenate([study.trace_tests(loaded, name, number, range(120))["p"] for number in range(2)])
    assert max(binom.sf(33, 240, 0.05), binom.sf(158, 240, 0.5), binom.cdf(82, 240, 0.5)) < 1e-6
    assert (p <= 0.05).sum() <= 33
    assert (p <= 0.5).sum() <= 158
    assert (p > 0.5).sum() >= 83


def test_the_pages_of_power_say_what_their_figures_say():
    report = script("studies/text_power_page")
    for name, text in report.render(report.load(), report.load("efficiency")).items():
        assert (report.DOCS / name).read_text(encoding="utf-8") == text
