"""Where a run's values come from, and what is refused before anything heavy is imported."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okr.errors import InvalidConfig
from okr.experiment.config import RunConfig, resolve
from okr.experiment.presets import PRESETS, named_for, preset_of
from okr.routing import NAMED, SETTINGS
from okr.routing.named import replaced

ORDER = ("flag", "file", "environment", "preset")


@given(values=st.dictionaries(st.sampled_from(("flag", "file", "environment")), st.integers(1, 500)))
def test_the_first_of_flag_file_environment_preset_default_wins(
    values: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("config") / "run.json"
    file.write_text(json.dumps({"samples": values["file"]} if "file" in values else {}))
    environment = {"OKR_SAMPLES": str(values["environment"])} if "environment" in values else {}
    resolved = resolve("deepseek-moe", {"samples": values.get("flag")}, file=str(file), environment=environment)
    winner = next((origin for origin in ORDER if origin in values), "preset")
    assert resolved.config.samples == values.get(winner, PRESETS["deepseek-moe"].values["samples"])
    assert resolved.sources["samples"] == winner
    assert resolved.sources["seed"] == "default"
    assert set(resolved.sources) == set(RunConfig.model_fields)


@given(
    asked=st.dictionaries(
        st.sampled_from(("flag", "file", "environment")),
        st.dictionaries(st.sampled_from(("setting", "strength")), st.integers(1, 3), min_size=1),
    ),
    preset=st.sampled_from(("tiny", "tiny-switch", "switch")),
)
def test_a_name_stands_for_its_numbers_where_it_is_given(
    asked: dict[str, dict[str, int]], preset: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Layer by layer, the numbers of a name first, then those that stand beside it."""
    layers = {
        origin: {part: SETTINGS[value % 2] if part == "setting" else float(value) for part, value in layer.items()}
        for origin, layer in asked.items()
    }
    file = tmp_path_factory.mktemp("config") / "run.json"
    file.write_text(json.dumps(layers.get("file", {})))
    environment = {f"OKR_{part.upper()}": str(value) for part, value in layers.get("environment", {}).items()}
    resolved = resolve(preset, layers.get("flag", {}), file=str(file), environment=environment)
    expected, origin, name = PRESETS[preset].setting, "preset", PRESETS[preset].values.get("setting")
    for layer in ("environment", "file", "flag"):
        given_here = layers.get(layer, {})
        if "setting" in given_here:
            name, origin = given_here["setting"], layer
            expected = PRESETS[preset].named[name]
        if "strength" in given_here:
            expected, origin = replaced(expected, strength=given_here["strength"]), layer
    assert resolved.config.chosen() == expected
    assert resolved.sources["strength"] == origin
    if name is not None and expected == PRESETS[preset].named[name]:
        assert resolved.config.setting == name
        assert resolved.notes == ()
    else:
        assert resolved.config.setting is None
        assert (name is None) == (resolved.notes == ())
        assert all(f"strength {expected.strength} ({origin}) in place of" in note for note in resolved.notes)


def test_a_configuration_that_was_written_can_be_given_again(tmp_path: Path) -> None:
    for flags in ({}, {"setting": "loud"}, {"setting": "loud", "zone": "max"}, {"epsilon": 1.0}):
        config = resolve("tiny", flags | {"output_dir": "out"}, environment={}).config
        (tmp_path / "again.json").write_text(config.model_dump_json())
        assert resolve(None, {}, file=str(tmp_path / "again.json"), environment={}).config == config


@pytest.mark.parametrize("model", ["tiny", "tiny-deepseek-moe", "tiny-switch", "some/model"])
def test_the_named_settings_of_a_model_are_its_presets(model: str) -> None:
    preset = preset_of(model)
    assert named_for(model) == (NAMED if preset is None else preset.named)
    if preset is not None:
        assert preset.setting == named_for(model)["quiet"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_configuration(preset: str) -> None:
    resolved = resolve(preset, {}, environment={})
    assert resolved.config.preset == preset
    assert resolved.config.output_dir.startswith(f"okr-runs/{preset}-")


def test_the_guide_is_followed() -> None:
    config = resolve("deepseek-moe", {}, environment={}).config
    assert (config.dtype, config.device, config.max_memory) == ("bfloat16", "auto", "70GiB")
    assert (config.epsilon, config.zone, config.strength, config.batch_size) == (2.0, "max", math.inf, 1)
    assert PRESETS["deepseek-moe"].log_file == "deepseek_moe_experiment.log"
    assert PRESETS["deepseek-moe"].declared == {"num_experts": 64, "top_k": 8}


def test_quick_test_is_the_default_and_0_is_the_full_configuration() -> None:
    quick, full = (resolve("deepseek-moe", {}, environment=e) for e in ({}, {"QUICK_TEST": "0"}))
    assert resolve("deepseek-moe", {}, environment={"QUICK_TEST": "1"}).config.samples == quick.config.samples
    assert full.config.samples > quick.config.samples
    assert full.sources["samples"] == "environment"
    assert full.notes == ("full configuration (QUICK_TEST=0)",)
    assert resolve("tiny", {}, environment={"QUICK_TEST": "0"}).config == resolve("tiny", {}, environment={}).config
    with pytest.raises(InvalidConfig, match="QUICK_TEST must be 1"):
        resolve("deepseek-moe", {}, environment={"QUICK_TEST": "yes"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", 'preset = "switch"\nepsilon = inf\nsamples = 3\n'),
        ("run.json", '{"preset": "switch", "epsilon": "inf", "samples": 3}'),
    ],
)
def test_a_file_may_hold_everything_in_toml_or_json(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    resolved = resolve(None, {}, file=str(tmp_path / name), environment={})
    assert (resolved.config.preset, resolved.config.epsilon, resolved.config.samples) == ("switch", math.inf, 3)
    assert resolved.sources["preset"] == "file"
    assert resolve("tiny", {}, file=str(tmp_path / name), environment={}).config.preset == "tiny"


def test_a_configuration_survives_json() -> None:
    config = resolve("tiny", {}, environment={}).config
    text = config.model_dump_json()
    assert RunConfig.model_validate_json(text) == config
    assert json.loads(text)["epsilon"] == "inf"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"epsilon": -0.5}, "--epsilon: must be greater than or equal to 0, got -0.5"),
        ({"epsilon": math.nan}, "--epsilon: .*nan"),
        ({"strength": 0.0}, "--strength: must be greater than 0"),
        ({"strength": math.nan}, "--strength: .*nan"),
        ({"setting": "silent"}, "--setting: must be 'quiet' or 'loud', got 'silent'"),
        ({"setting": ["quiet"]}, "--setting: must be"),
        ({"zone": "middle"}, "--zone: must be 'max' or 'boundary', got 'middle'"),
        ({"samples": 0}, "--samples: must be greater"),
        ({"max_length": 1}, "--max-length: "),
        ({"seed": -1}, "--seed: "),
        ({"device": "gpu"}, "--device: expected auto, cpu, cuda or cuda:N.*, got 'gpu'"),
        ({"max_memory": "lots"}, "--max-memory: expected .*70GiB, got 'lots'"),
        ({"decoys": 0}, "--decoys: must be greater"),
        ({"colour": 1}, "unknown setting 'colour': the settings are model, device"),
    ],
)
def test_a_bad_value_is_refused_on_one_line_that_names_it(flags: dict, complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint) as caught:
        resolve("tiny", flags, environment={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.json", "{", "a.json is not valid JSON"),
        ("a.toml", "samples = ", "a.toml is not valid TOML"),
        ("a.json", "[1]", "must hold one table"),
        ("a.json", '{"samples": "8"}', "samples .from the configuration file.: must be a valid integer, got '8'"),
        ("a.json", '{"smaples": 8}', "unknown setting 'smaples'"),
        ("a.json", '{"epsilon": NaN}', "epsilon .*nan"),
        ("a.json", '{"preset": 3}', "there is no preset 3"),
        ("a.json", "\xff", "is not valid JSON"),
    ],
)
def test_a_malformed_file_is_refused_on_one_line(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidConfig, match=complaint) as caught:
        resolve(None, {}, file=str(tmp_path / name), environment={})
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(InvalidConfig, match=r"cannot read configuration file nowhere\.json: No such file"):
        resolve(None, {}, file="nowhere.json", environment={})
    with pytest.raises(InvalidConfig, match="there is no preset 'huge': choose one of tiny, tiny-switch"):
        resolve("huge", {}, environment={})
