"""The settings that have a name, and how numbers go with a name."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.errors import InvalidSetting
from okr.routing import NAMED, SETTINGS, ZONES, Setting
from okr.routing.named import SettingName, asked_setting, replaced

EPSILONS = st.floats(0, 1e6) | st.just(math.inf)
STRENGTHS = st.floats(1e-6, 1e6) | st.just(math.inf)


def test_every_name_has_values_in_range_and_quiet_is_the_weaker() -> None:
    assert tuple(NAMED) == SETTINGS == get_args(SettingName) == ("quiet", "loud")
    assert all(Setting.checked(each.epsilon, each.zone, each.strength) == each for each in NAMED.values())
    assert 0 < NAMED["quiet"].strength < NAMED["loud"].strength < math.inf


@given(
    base=st.builds(Setting, EPSILONS, st.sampled_from(ZONES), STRENGTHS),
    epsilon=st.none() | EPSILONS,
    zone=st.none() | st.sampled_from(ZONES),
    strength=st.none() | STRENGTHS,
)
def test_only_what_is_given_is_replaced(base: Setting, epsilon, zone, strength) -> None:
    found = replaced(base, epsilon=epsilon, zone=zone, strength=strength)
    assert found.epsilon == (base.epsilon if epsilon is None else epsilon)
    assert found.zone == (zone or base.zone)
    assert found.strength == (strength or base.strength)


def test_what_is_meant_without_a_name() -> None:
    """With an epsilon the guide's way; else the quiet setting."""
    assert asked_setting() == NAMED["quiet"]
    assert asked_setting(strength=2.0) == Setting(math.inf, "boundary", 2.0)
    assert asked_setting(epsilon=0.0) == Setting(0.0, "max", math.inf)
    assert asked_setting(epsilon=1.0, zone="boundary") == Setting(1.0, "boundary", math.inf)
    assert asked_setting("loud", epsilon=1.0) == Setting(1.0, "boundary", NAMED["loud"].strength)


@pytest.mark.parametrize("name", ["", "Quiet", "silent", 5, ["quiet"], "x" * 500])
def test_a_name_that_is_none_is_refused_with_those_that_are(name: object) -> None:
    with pytest.raises(InvalidSetting, match="setting must be quiet or loud, got") as caught:
        asked_setting(name)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("values", [{"epsilon": -1.0}, {"strength": 0.0}, {"zone": "all"}, {"strength": "1"}])
def test_values_out_of_range_are_refused_beside_a_name(values: dict) -> None:
    with pytest.raises(InvalidSetting):
        asked_setting("quiet", **values)
