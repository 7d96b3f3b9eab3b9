"""What vLLM is told of the key: it survives JSON, is checked where it is read, and holds no secret."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from okr.engines.vllm import Configuration
from okr.errors import InvalidSetting
from okr.routing import ZONES, Key, Setting

SECRET = bytes(range(32))
CONFIGURATIONS = st.builds(
    Configuration,
    key_file=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    zone=st.sampled_from(ZONES),
    epsilon=st.floats(0, allow_nan=False) | st.just(math.inf),
    strength=st.floats(0, exclude_min=True, allow_nan=False) | st.just(math.inf),
    record=st.booleans(),
    journal=st.none() | st.just("/traces"),
)


@given(CONFIGURATIONS)
def test_it_comes_back_from_json_as_it_was(configuration: Configuration) -> None:
    """JSON without infinities, as the command line and other processes get it."""
    written = json.dumps({"other": {"okr": 1}} | configuration.section(), allow_nan=False)
    again = Configuration.of(json.loads(written))
    assert again == configuration
    assert again.setting == Setting(configuration.epsilon, configuration.zone, configuration.strength)


def test_infinity_is_a_word_and_none_is_left_out() -> None:
    section = Configuration(strength=math.inf).section()
    assert section == {
        "okr": {"zone": "boundary", "epsilon": "inf", "strength": "inf", "record": True, "opt_out": True}
    }
    assert Configuration.of({"okr": {}}) == Configuration()


@pytest.mark.parametrize("additional", [None, {}, {"okr": None}, {"OKR": {}}, "okr", ["okr"], 5, object()])
def test_without_a_section_there_is_none(additional: Any) -> None:
    assert Configuration.of(additional) is None


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"epsilon": -1}, "epsilon must be a number >= 0"),
        ({"epsilon": math.nan}, "epsilon must be a number >= 0"),
        ({"strength": 0}, "strength must be a number > 0"),
        ({"strength": -math.inf}, "strength must be a number > 0"),
        ({"epsilon": "wide"}, "additional_config: okr: epsilon: "),
        ({"epsilon": None}, "additional_config: okr: epsilon: "),
        ({"epsilon": [1]}, "additional_config: okr: epsilon: "),
        ({"strength": {}}, "additional_config: okr: strength: "),
        ({"zone": "middle"}, "additional_config: okr: zone: "),
        ({"zone": "inf"}, "additional_config: okr: zone: "),
        ({"key_file": ""}, "additional_config: okr: key_file: "),
        ({"key_file": 5}, "additional_config: okr: key_file: "),
        ({"journal": ""}, "additional_config: okr: journal: "),
        ({"record": "perhaps"}, "additional_config: okr: record: "),
        ({"key": "key.json"}, "additional_config: okr: key: Extra inputs are not permitted"),
        ("key.json", "additional_config: okr: Input should be"),
        ([], "additional_config: okr: Input should be"),
        (False, "additional_config: okr: Input should be"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(section: Any, said: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Configuration.of({"okr": section})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Configuration().key_file = "other.json"  # type: ignore[misc]


def test_no_secret_is_in_it_or_in_what_is_said_of_it(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    Key(SECRET).save(path)
    configuration = Configuration(key_file=str(path))
    said = [repr(configuration), str(configuration), json.dumps(configuration.section())]
    document = json.loads(path.read_text())
    for section in ({"key_file": document}, document, {"epsilon": document["secret"]}, [document["secret"]]):
        with pytest.raises(InvalidSetting) as caught:
            Configuration.of({"okr": section})
        said.append(str(caught.value))
    forms = (SECRET.hex(), base64.b64encode(SECRET).decode(), base64.urlsafe_b64encode(SECRET).decode(), repr(SECRET))
    assert not [line for line in said for form in forms if form in line]
