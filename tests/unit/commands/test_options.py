"""The setting that commands are given: a name, numbers, or both."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.commands.options import AskedSetting
from okr.errors import InvalidConfig
from okr.experiment.presets import SWITCH_SETTINGS
from okr.routing import NAMED, SETTINGS, ZONES, Setting

NUMBERS = st.fixed_dictionaries(
    {
        "epsilon": st.none() | st.floats(0, 9) | st.just(inf),
        "zone": st.none() | st.sampled_from(ZONES),
        "strength": st.none() | st.floats(0.01, 9) | st.just(inf),
    }
)


@given(name=st.sampled_from(SETTINGS), numbers=NUMBERS, switch=st.booleans())
def test_a_name_means_the_same_to_every_command_and_numbers_replace_its_values(
    name: str, numbers: dict, switch: bool
) -> None:
    asked = AskedSetting.checked(name, **numbers)
    model, named = ("tiny-switch", SWITCH_SETTINGS) if switch else ("./my-model", NAMED)
    expected = {part: getattr(named[name], part) if value is None else value for part, value in numbers.items()}
    assert asked.for_text(model) == asked.for_generation(model) == Setting(**expected)
    assert asked.for_traces(model) == expected


@given(numbers=NUMBERS)
def test_without_a_name_traces_keep_what_their_headers_say(numbers: dict) -> None:
    assert AskedSetting.checked(None, **numbers).for_traces("tiny") == numbers


def test_the_setting_of_a_text_must_be_said() -> None:
    with pytest.raises(InvalidConfig, match="--setting loud"):
        AskedSetting.checked(None, None, "max", 1.0).for_text("tiny")
    assert AskedSetting.checked(None, 1.0, None, None).for_text("tiny") == Setting(1.0, "max", inf)
