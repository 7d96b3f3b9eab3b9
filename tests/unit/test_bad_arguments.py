"""Arguments of a wrong type, size or value: an OKRError of one line that says what was expected, and nothing secret."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import okr
from okr import InvalidKey, InvalidSetting, InvalidText, InvalidTrace, ModelLoadError, OKRError, UnsupportedGeneration
from okr.routing import check_setting

SOFT = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
SECRET = b"a secret of thirty-two bytes ...!"


def line(kind: type[OKRError], call) -> str:
    """The one line that ``call`` fails with."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 400
    return text


def entered(*arguments, **options):
    with okr.watermark(*arguments, **options):
        pytest.fail("entered")


@pytest.fixture
def trace(deepseek, key):
    with okr.watermark(deepseek, key, **SOFT) as watermark:
        return watermark.generate(input_ids=torch.arange(3, 9)[None], max_new_tokens=4).traces[0]


@pytest.mark.parametrize("source", [None, 5, ["tiny"], math.nan, object()])
def test_a_model_that_is_not_named(source) -> None:
    assert f"got {type(source).__name__}" in line(ModelLoadError, lambda: okr.load(source))


@pytest.mark.parametrize("name", ["x" * 5000, "a--b/c", "a..b", "a/b.git", "tiny ", "nul\0"])
def test_a_name_that_no_hub_takes_is_refused_before_the_network(name: str) -> None:
    with pytest.raises(ModelLoadError, match="it is no hub id"):
        okr.load(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_map": "nowhere"}, "'nowhere' is no device; use 'auto', 'cpu' or 'cuda:N'"),
        ({"device_map": {"": "nowhere"}}, "'nowhere' is no device"),
        ({"device_map": 1.5}, "1.5 is no device"),
        ({"device_map": "auto", "max_memory": "70GiB"}, "max_memory must be sizes by device"),
        ({"device_map": "auto", "max_memory": {"cpu": "lots"}}, "max_memory must be sizes by device"),
        ({"device_map": "auto", "max_memory": {"cpu": -1}}, "max_memory must be sizes by device"),
        ({"device_map": "auto", "max_memory": {"cpu": None}}, "max_memory must be sizes by device"),
    ],
)
def test_places_and_sizes_that_are_none(options: dict, words: str) -> None:
    assert words in line(InvalidSetting, lambda: okr.load("tiny", **options))


def test_a_card_by_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees none" in line(InvalidSetting, lambda: okr.load("tiny", device_map=0))


def test_a_model_that_does_not_fit_what_max_memory_leaves() -> None:
    said = line(ModelLoadError, lambda: okr.load("tiny", device_map="auto", max_memory={"cpu": "1MB"}))
    assert "does not fit into the memory that device_map and max_memory leave" in said


@pytest.mark.parametrize("what", [None, "tiny", 5, torch.nn.Linear, okr.Loaded], ids=str)
def test_what_is_no_model(what, key, trace) -> None:
    calls = [
        lambda: okr.discover(what),
        lambda: entered(what, key, **SOFT),
        lambda: okr.verify(what, trace, key),
        lambda: okr.detect(what, [3, 4, 5], key, epsilon=1.0),
        lambda: okr.attribute(what, trace, [key]),
        lambda: okr.locate(what, trace, key),
    ]
    for call in calls:
        assert f"must be a torch.nn.Module, got {type(what).__name__}" in line(InvalidSetting, call)


def test_what_was_loaded_instead_of_its_model_is_pointed_at(deepseek, key) -> None:
    loaded = okr.Loaded(deepseek, None, "here")
    for call in (lambda: okr.discover(loaded), lambda: entered(loaded, key, **SOFT)):
        assert "got Loaded (its .model is one)" in line(InvalidSetting, call)


@pytest.mark.parametrize("what", [None, SECRET, SECRET.decode(), 5], ids=["None", "bytes", "str", "int"])
def test_what_is_no_key_is_named_by_its_type_and_never_shown(what, deepseek, trace) -> None:
    calls = [
        lambda: entered(deepseek, what, **SOFT),
        lambda: okr.verify(deepseek, trace, what),
        lambda: okr.detect(deepseek, [3, 4, 5], what, epsilon=1.0),
        lambda: okr.attribute(deepseek, trace, [what]),
        lambda: okr.locate(deepseek, trace, what),
    ]
    for call in calls:
        said = line(InvalidKey, call)
        assert f"expected an okr.Key (okr.Key.load reads a key file), got {type(what).__name__}" in said
        assert "thirty" not in said


@pytest.mark.parametrize("what", [None, 5, "trace", [None]], ids=str)
def test_what_is_no_trace(what, deepseek, key) -> None:
    for call in (lambda: okr.verify(deepseek, what, key), lambda: okr.attribute(deepseek, what, [key])):
        assert "expected traces (see okr.Trace.load)" in line(InvalidTrace, call)


@pytest.mark.parametrize("path", ["nul\0", "x" * 5000])
def test_paths_that_no_file_can_have(path: str, key, trace) -> None:
    for kind, calls in {
        InvalidKey: (lambda: okr.Key.load(path), lambda: key.save(path)),
        InvalidTrace: (lambda: okr.Trace.load(path), lambda: trace.save(path)),
    }.items():
        for call in calls:
            with pytest.raises(kind, match=r"cannot (read|write)"):
                call()


def test_a_passphrase_that_is_no_text() -> None:
    said = line(InvalidKey, lambda: okr.Key.from_passphrase("long enough \udcff"))
    assert "must be valid Unicode text" in said


@pytest.mark.parametrize("number", [None, "2", True, math.nan, -1, 1j, [1], 10**400, torch.tensor(1.0)], ids=repr)
def test_numbers_that_are_no_setting(number) -> None:
    for name in ("epsilon", "strength"):
        setting = {"epsilon": 1.0, "zone": "max", "strength": 1.0, name: number}
        said = line(InvalidSetting, lambda setting=setting: check_setting(2, 8, **setting))
        assert said.startswith(f"{name} must be a number")


@pytest.mark.parametrize("kind", [int, np.float32, np.float64, np.int64])
def test_numbers_of_numpy_are_settings(kind, deepseek, key) -> None:
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        with okr.watermark(deepseek, key, epsilon=2.0, strength=1.0):
            expected = deepseek(ids).logits
        with okr.watermark(deepseek, key, epsilon=kind(2), strength=kind(1)) as watermark:
            assert torch.equal(deepseek(ids).logits, expected)
            trace = watermark.generate(input_ids=ids, max_new_tokens=4).traces[0]
    assert okr.verify(deepseek, trace, key, epsilon=kind(2)) == okr.verify(deepseek, trace, key)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoys": 0}, "decoys must lie between 1 and 1,000,000, got 0"),
        ({"decoys": 10**9}, "decoys must lie between 1 and 1,000,000, got 1000000000"),
        ({"decoys": 1.5}, "whole number"),
        ({"decoys": True}, "whole number"),
        ({"alpha": 2.0}, "alpha must lie between 0 and 1, got 2"),
        ({"alpha": math.nan}, "alpha must lie between 0 and 1, got nan"),
        ({"decoys": 10**7}, "decoys must lie between 1 and 1,000,000, got 10000000"),
    ],
)
def test_decoys_and_levels_out_of_range(options: dict, words: str, deepseek, key, trace) -> None:
    assert words in line(InvalidSetting, lambda: okr.verify(deepseek, trace, key, **options))


@pytest.mark.parametrize("tokens", [None, [], "text", [1.5, 2.5], {3, 4}, [[3, 4], []], [None, 3]], ids=str)
def test_what_is_no_text(tokens, deepseek, key) -> None:
    assert "must be token ids, at least one" in line(
        InvalidText, lambda: okr.detect(deepseek, tokens, key, epsilon=1.0)
    )


@pytest.mark.parametrize("length", [-1, 3, 1.5, True, None])
def test_prompt_lengths_out_of_range(length, deepseek, key) -> None:
    said = line(InvalidText, lambda: okr.detect(deepseek, [3, 4, 5], key, epsilon=1.0, prompt_length=length))
    assert f"prompt_length must lie between 0 and 2, got {length}" in said


@pytest.mark.parametrize(
    "ids",
    [None, [[3, 4]], torch.arange(4), torch.zeros(0, 3).long(), torch.zeros(1, 0).long(), torch.full((1, 3), 0.5)],
    ids=str,
)
def test_prompts_that_are_none(ids, deepseek, key) -> None:
    with okr.watermark(deepseek, key, **SOFT) as watermark:
        said = line(UnsupportedGeneration, lambda: watermark.generate(input_ids=ids, max_new_tokens=2))
    assert "an integer tensor [batch, tokens] that is not empty" in said


def test_a_path_is_as_good_as_its_name(tmp_path: Path, key) -> None:
    key.save(tmp_path / "key.json")
    assert okr.Key.load(str(tmp_path / "key.json")) == key == okr.Key.load(tmp_path / "key.json")
