"""The figures of the report: shares with intervals, and curves along the tokens."""

import copy
import json

import numpy as np
import pytest

from okr.experiment import words
from okr.experiment.by_token import hit_rates_along, p_curve
from okr.experiment.results import Results
from okr.experiment.shares import groups, layers, tokens_needed


@pytest.fixture
def results(document: dict) -> Results:
    return Results.model_validate_json(json.dumps(document))


def test_means_are_those_of_the_samples_and_lie_in_their_intervals(results: Results) -> None:
    for group, samples in zip(groups(results), (results.detailed_results, results.control_results), strict=True):
        for rate, name in ((group.hit_rate, "hit_rate"), (group.chance_rate, "chance_rate"), (group.swaps, "swaps")):
            assert rate.value == pytest.approx(np.mean([getattr(sample.verdict, name) for sample in samples]))
            assert rate.low <= rate.value <= rate.high
        assert (group.found.low, group.found.value, group.found.high) == tuple(sorted(group.found))
    for layer in layers(results):
        assert layer.site.keyable
        assert layer.keyed.low <= layer.keyed.value <= layer.keyed.high <= 1.0


def test_tokens_needed_are_named_where_every_sample_was_proven(document: dict) -> None:
    changed = copy.deepcopy(document)
    for index, sample in enumerate(changed["detailed_results"]):
        sample["verdict"]["tokens_needed"] = 3 + index
    assert tokens_needed(Results.model_validate(changed)) == (5, 3, 7)
    changed["detailed_results"][2]["verdict"]["tokens_needed"] = None
    assert tokens_needed(Results.model_validate(changed)) is None


def test_curves_end_with_the_shortest_sample(results: Results) -> None:
    for samples in (results.detailed_results, results.control_results):
        curve = p_curve(samples)
        assert len(curve.median) == min(len(sample.tokens.text) for sample in samples) - 1
        assert np.all((curve.smallest <= curve.median) & (curve.median <= curve.largest))
    assert p_curve(results.control_results).smallest.min() > 1e-3 > p_curve(results.detailed_results).largest[-1]


def test_hit_rates_along_the_text_are_those_of_the_whole_in_one_part(results: Results) -> None:
    samples = results.detailed_results
    shortest = min(len(sample.tokens.text) for sample in samples) - 1
    ((middle, rate),) = hit_rates_along(samples, 1)
    rows = [sample.tokens for sample in samples]
    assert middle == (shortest + 1) / 2
    assert rate.value == pytest.approx(
        np.mean([sum(row.matched[:shortest]) / sum(row.free_slots[:shortest]) for row in rows])
    )
    middles = [middle for middle, _ in hit_rates_along(samples, 12)]
    assert middles == sorted(set(middles))


def test_one_sample_without_counts_leaves_the_curves_out(document: dict) -> None:
    changed = copy.deepcopy(document)
    changed["control_results"][1]["tokens"] = None
    results = Results.model_validate(changed)
    assert p_curve(results.control_results) is None
    assert hit_rates_along(results.control_results, 12) == []
    assert not {"proof", "along"} & set(words.alternatives(results))


@pytest.mark.parametrize(
    ("count", "said"), [(900, "900"), (4_292_000, "4.29 million"), (16_400_000_000, "16.4 billion")]
)
def test_sizes_are_said_as_people_say_them(count: int, said: str) -> None:
    assert words.size(count) == said


def test_a_cost_is_told_from_zero_where_its_interval_leaves_it_out(document: dict) -> None:
    changed = copy.deepcopy(document)
    changed["quality"] |= {"cost": 0.02, "cost_low": 0.01, "cost_high": 0.03}
    said = words.cost(Results.model_validate(changed))
    assert "+1.01% to +3.05%" in said
    assert "can be told from zero" in said
    changed["quality"] |= {"cost_low": -0.01}
    assert "no cost can be told" in words.cost(Results.model_validate(changed))
