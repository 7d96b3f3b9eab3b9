"""What vLLM is told: read back as it was written, refused in one line, and no secret."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.engines.vllm import Configuration
from okr.errors import InvalidSetting

numbers = st.floats(min_value=1e-6, exclude_min=True, allow_nan=False)


@given(
    made=st.builds(
        Configuration, key_file=st.none() | st.just("/keys/one.json"), zone=st.sampled_from(["max", "boundary"]),
        epsilon=numbers, strength=numbers, record=st.booleans(), opt_out=st.booleans(),
        journal=st.none() | st.just("t"),
    )
)  # fmt: skip
def test_it_survives_json(made: Configuration) -> None:
    assert Configuration.of(json.loads(json.dumps(made.section()))) == made


@pytest.mark.parametrize("given", [None, {}, {"other": 1}, []])
def test_without_a_section_there_is_none(given: Any) -> None:
    assert Configuration.of(given) is None


@pytest.mark.parametrize(
    "section",
    [
        3,
        {"strength": "much"},
        {"strength": -1},
        {"strength": math.nan},
        {"zone": "all"},
        {"secret": "x"},
        {"key_file": ""},
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(section: Any) -> None:
    with pytest.raises(InvalidSetting) as raised:
        Configuration.of({"okr": section})
    assert "\n" not in str(raised.value)
