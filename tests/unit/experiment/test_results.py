"""results.json: its schema, its checks, the guide's fields."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from okr.errors import InvalidConfig
from okr.experiment.results import SCHEMA_PATH, Results, schema, schema_text
from okr.intervals import paired


def test_the_stored_schema_is_current() -> None:
    stored = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))  # whose numbers releases of pydantic write differently
    assert stored == json.loads(schema_text()), "run: python -m okr.experiment.results"


def test_a_run_satisfies_the_schema_and_survives_a_round_trip(finished: Path, document: dict) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(document, schema(), cls=jsonschema.Draft202012Validator)
    text = (finished / "results.json").read_text(encoding="utf-8")
    assert Results.load(finished / "results.json").to_json() == text
    assert document["config"]["epsilon"] == "inf"


def test_the_guides_fields_are_where_it_says(document: dict) -> None:
    assert {"experiment_name", "config", "summary", "detailed_results"} <= set(document)
    summary = {"total_samples", "watermarked_samples", "average_hit_rate", "detection_threshold"}
    assert summary <= set(document["summary"])
    sample = {"sample_id", "original_text", "watermarked_text", "hit_rate", "verdict"}
    assert all(sample <= set(result) for result in document["detailed_results"])
    for result, control in zip(document["detailed_results"], document["control_results"], strict=True):
        assert result["original_text"] == control["text"]
        assert result["prompt"] == control["prompt"]


def set_at(*path: str | int, value: object) -> Callable[[dict], None]:
    def change(document: dict) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_at("summary", "watermarked_samples", value=4), "counts are not those of the samples"),
        (set_at("summary", "control_samples", value=7), "counts are not those of the samples"),
        (set_at("detailed_results", 1, "p_value", value=0.5), "sample 1: its figures are not those of its verdict"),
        (set_at("control_results", 2, "verdict", "watermarked", value=True), "counts are not those"),
        (set_at("summary", "detection_threshold", value=1e-200), "does not follow from p and the threshold"),
        (set_at("key_id", value="0" * 16), "another key"),
        (set_at("key_id", value="secret"), "key_id: String should match"),
        (set_at("surplus", value=1), "surplus: Extra inputs"),
        (set_at("schema_version", value="2.0"), "schema_version"),
        (set_at("config", "epsilon", value=-1.0), "config.epsilon"),
        (set_at("quality", "cost", value="NaN"), "quality.cost"),
        (lambda document: document.pop("quality"), "quality: Field required"),
    ],
)
def test_results_that_contradict_themselves_are_refused(
    change: Callable[[dict], None], complaint: str, document: dict, tmp_path: Path
) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(InvalidConfig, match=complaint) as caught:
        Results.load(path)
    assert "\n" not in str(caught.value)


@given(
    unkeyed=st.lists(st.floats(0, 20), min_size=2, max_size=30),
    shift=st.floats(-1, 1),
    noise=st.integers(0, 2**32 - 1),
)
def test_the_interval_is_that_of_a_paired_t_test(unkeyed: list[float], shift: float, noise: int) -> None:
    keyed = np.asarray(unkeyed) + shift + np.random.default_rng(noise).normal(size=len(unkeyed))
    mean, low, high = paired(keyed.tolist(), unkeyed)
    expected = stats.ttest_rel(keyed, unkeyed).confidence_interval(0.95)
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert mean == pytest.approx(float(np.mean(keyed - unkeyed)))


def test_equal_losses_have_an_interval_of_no_width() -> None:
    assert paired([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0, 0.0)
    assert all(map(math.isfinite, paired([1.5, 2.5], [1.0, 2.0])))
