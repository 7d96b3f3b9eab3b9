"""Keys judged on native traces before use: okr keygen --for and okr inspect-key."""

import json
import math
from pathlib import Path

import pytest

from okr import Key
from okr.cli import execute
from okr.loaders import load, passages
from okr.routing import Setting
from okr.tuning import native_rates as module
from okr.tuning.native_rates import NativeRate, native_rates


@pytest.fixture(autouse=True)
def few_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okr.commands.keygen.TRACES", 16)


def rate(**found: int) -> NativeRate:
    """The rate of a key on 200 traces."""
    setting = {"epsilon": math.inf, "zone": "boundary", "strength": 0.15}
    levels = {"0.05": found.get("often", 0), "0.01": found.get("seldom", 0)}
    return NativeRate(model="m", dtype="float32", traces=200, found=levels, smallest_p=0.5, **setting)


@pytest.mark.parametrize(
    ("found", "passes"),
    [({}, True), ({"often": 10, "seldom": 2}, True), ({"often": 22}, False), ({"seldom": 9}, False)],
)
def test_a_key_passes_unless_it_is_found_more_often_than_chance(found: dict, passes: bool) -> None:
    assert rate(**found).passes() == passes


def test_native_traces_of_the_model_itself_show_nothing(deepseek_folder: Path) -> None:
    texts, told = [passage.text for passage in passages(11)], []
    keys = [Key.public(f"judged {number}") for number in range(3)]
    setting = Setting(math.inf, "boundary", 0.15)
    rates = native_rates(load(deepseek_folder), keys, setting, texts, new_tokens=8, advance=told.append)
    assert [(one.traces, one.found, one.smallest_p) for one in rates] == [(11, {"0.05": 0, "0.01": 0}, 1.0)] * 3
    assert sum(told) == 11


def test_a_key_that_made_the_traces_does_not_pass(deepseek_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native model replaced by one under the key: the rate tells."""
    loaded, key = load(deepseek_folder), Key.public("judged")
    setting = Setting(math.inf, "boundary", 1.0)
    engine = module.prepare(loaded.model)
    monkeypatch.setattr(type(engine), "recorded", lambda self: self.keyed(key, setting))
    used, other = native_rates(loaded, [key, Key.public("other")], setting, [p.text for p in passages(16)])
    assert used.found == {"0.05": 16, "0.01": 16}
    assert not used.passes()
    assert other.passes()


def test_keygen_writes_what_it_saw_and_inspect_key_sees_it_again(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "key.json"
    assert execute(["keygen", str(path), "--for", str(deepseek_folder), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    written = json.loads(path.read_text())
    assert written["native_rate"] == told["native_rate"] | {"tried": 1}
    assert written["native_rate"]["epsilon"] == "inf"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Key.load(path).id == told["key_id"]
    assert execute(["inspect-key", str(path), "--for", str(deepseek_folder), "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again == {"key_id": told["key_id"], "passes": True, "native_rate": told["native_rate"]}
    assert written["secret"] not in json.dumps([told, again])


def test_keys_are_drawn_until_one_passes(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good, path = rate(often=200), rate(), tmp_path / "key.json"
    monkeypatch.setattr(module, "native_rates", lambda loaded, keys, *rest, **options: [bad, bad, *[good] * 6])
    command = ["keygen", str(path), "--for", str(deepseek_folder)]
    assert execute(command) == 0
    assert "the third that was tried" in capfd.readouterr().out
    assert json.loads(path.read_text())["native_rate"]["tried"] == 3
    monkeypatch.setattr(module, "native_rates", lambda loaded, keys, *rest, **options: [bad] * len(keys))
    assert execute(["inspect-key", str(path), "--for", str(deepseek_folder)]) == 1
    assert "is found too often" in capfd.readouterr().out
    path.unlink()
    assert execute(command) == 2
    assert "none of 8 keys passes" in capfd.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["keygen", "new.json", "--text", "t.txt"], "with --for"),
        (["keygen", "new.json", "--for", "tiny", "--passphrase"], "cannot go with --passphrase"),
        (["keygen", "old.json", "--for", "tiny"], "never overwritten"),
        (["keygen", "new.json", "--for", "tiny", "--text", "missing.txt"], "cannot read missing.txt"),
        (["inspect-key", "old.json", "--text", "t.txt"], "with --for"),
        (["inspect-key", "missing.json"], "cannot read key file"),
    ],
)
def test_bad_usage_is_told_before_a_model_is_loaded(
    words: list[str], complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Key.public("old").save(tmp_path / "old.json")
    monkeypatch.setattr("okr.jobs.loading.load_placed", lambda *rest: pytest.fail("a model was loaded"))
    assert execute(words) == 2
    assert complaint in capfd.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_inspect_key_tells_the_id(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    key = Key.public("told")
    key.save(tmp_path / "key.json")
    assert execute(["inspect-key", str(tmp_path / "key.json")]) == 0
    assert capfd.readouterr().out == f"key {key.id}\n"
