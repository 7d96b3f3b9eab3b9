"""okr calibrate: what it measures, what it recommends, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from okr.cli import execute
from okr.tuning.plot import calibration_plot
from okr.tuning.sweep import Calibration, Measured, TokensNeeded, _needed

FAST = ["--samples", "2", "--keys", "2", "--length", "8", "--passages", "2"]


def run(folder: Path, out: Path, *words: str) -> int:
    return execute(["calibrate", str(folder), "--output-dir", str(out), *FAST, *words])


def test_a_sweep_can_be_interrupted_and_goes_on(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """A sweep cut after its first setting and resumed is the sweep that was never cut."""
    settings = ["--setting", "boundary:1", "--setting", "max:2:1.5"]
    goal = ["--evidence", "trace", "--tokens", "8", "--json"]
    assert run(deepseek_folder, tmp_path / "whole", *settings, *goal) == 0
    document = json.loads(capfd.readouterr().out)
    whole = Calibration.load(tmp_path / "whole" / "calibration.json")
    assert document["measured"][1]["strength"] == 1.5
    assert document["recommended"]["cost"] == min(line.cost for line in whole.measured)
    shutil.copytree(tmp_path / "whole" / "tasks", tmp_path / "cut" / "tasks")
    (tmp_path / "cut" / "tasks" / "001-max-2-1.5.json").unlink()
    assert run(deepseek_folder, tmp_path / "cut", *settings, *goal) == 2
    assert "--resume" in capfd.readouterr().err
    assert run(deepseek_folder, tmp_path / "cut", *settings, *goal, "--resume") == 0
    assert Calibration.load(tmp_path / "cut" / "calibration.json") == whole
    assert run(deepseek_folder, tmp_path / "cut", *settings, "--seed", "1", "--resume") == 2
    assert "other options" in capfd.readouterr().err
    assert (tmp_path / "whole" / "calibration.svg").read_text().startswith("<svg")


def test_epsilon_zero_costs_nothing_and_proves_nothing(
    switch_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert run(switch_folder, tmp_path, "--setting", "max:0") == 1
    assert "no setting is found by text within 400 tokens" in capfd.readouterr().out
    line = Calibration.load(tmp_path / "calibration.json").measured[0]
    assert (line.cost, line.opportunity_rate) == (0.0, 0.0)
    assert all((need.trace, need.text) == (None, None) for need in line.needed)


def test_tokens_needed_follow_their_definitions() -> None:
    """By trace: from there on 95% are found. By text: where a normal z reaches that power."""
    p = np.ones((20, 10))
    p[:, 3:] = 0.001
    p[:2, 5] = 0.5  # found at 4 and 5 tokens, lost once more at 6
    z = np.random.default_rng(0).normal(3.0, 0.5, 400)
    need = _needed(0.01, p, z, tokens=100)
    assert need.trace == 7
    assert need.text is not None
    assert need.text_low is not None
    assert need.text_high is not None
    assert need.text_low < need.text < need.text_high
    power = norm.sf(norm.isf(0.01) - z.mean() * math.sqrt(need.text / 100))
    assert power == pytest.approx(0.95, abs=0.005)
    assert _needed(0.01, np.ones((4, 10)), np.array([-1.0, 0.5, 0.2, -0.3]), 100).trace is None


def line(cost: float, trace: int | None, text: int | None) -> Measured:
    need = TokensNeeded(fpr=0.01, trace=trace, text=text, text_low=text, text_high=None)
    return Measured(
        zone="max", epsilon=cost, strength=math.inf, opportunity_rate=0.5, cost=cost, cost_low=cost - 0.1,
        cost_high=cost + 0.1, text_z=1.0, needed=(need,),
    )  # fmt: skip


def test_the_cheapest_setting_that_meets_the_target_is_recommended() -> None:
    sweep = {
        "model": "m", "settings": (("max", 1.0, math.inf),), "passages": 2, "text_digest": "", "samples": 2, "keys": 1,
        "tokens": 8, "decoys": 7, "temperature": 1.0, "seed": 0,
    }  # fmt: skip
    lines = (line(0.3, 3, 100), line(0.1, 9, 500), line(0.2, 5, None))
    found = Calibration.model_validate({"sweep": sweep, "measured": lines})
    assert found.cheapest("trace", 9, 0.01) == lines[1]
    assert found.cheapest("trace", 8, 0.01) == lines[2]
    assert found.cheapest("text", 400, 0.01) == lines[0]
    assert found.cheapest("text", 99, 0.01) is None
    assert "from a text" in calibration_plot(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--setting", "middle:1"], "ZONE:EPSILON"),
        (["--setting", "max"], "ZONE:EPSILON"),
        (["--setting", "max:-1"], "ZONE:EPSILON"),
        (["--setting", "max:1:0"], "ZONE:EPSILON"),
        (["--setting", "max:nan"], "ZONE:EPSILON"),
        (["--evidence", "smell"], "--evidence"),
        (["--fpr", "0.5"], "--fpr"),
        (["--samples", "1"], "samples"),
        (["--temperature", "0"], "temperature"),
    ],
)
def test_bad_options_are_one_line(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, words: list[str], said: str
) -> None:
    assert run(deepseek_folder, tmp_path / "out", *words) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out" / "calibration.json").exists()


def test_text_must_hold_passages(deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "short.txt").write_text("too short\n")
    assert run(deepseek_folder, tmp_path, str(tmp_path / "short.txt")) == 2
    assert "50 words" in capfd.readouterr().err
    assert run(deepseek_folder, tmp_path, str(tmp_path / "none.txt")) == 2
    assert "cannot read" in capfd.readouterr().err
    (tmp_path / "calibration.json").write_text("{}")
    assert run(deepseek_folder, tmp_path, "--resume") == 2
    assert "no sweep to go on with" in capfd.readouterr().err


@pytest.mark.parametrize("length", ["480", "512", "100000", "100001"])
def test_more_new_tokens_than_the_model_has_positions(
    length: str, deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts of 24 words take more than 32 of the 512 positions: nothing is measured, nothing is left."""

    def measured(*arguments: object) -> None:
        raise AssertionError("measured before the length was looked at")

    monkeypatch.setattr("okr.tuning.sweep.passage_loss", measured)
    assert run(deepseek_folder, tmp_path / "deep" / "out", "--setting", "max:1", "--length", length) == 2
    said = capfd.readouterr().err
    assert ("512 positions: at most" if length != "100001" else "--length: Input should be less") in said
    assert said.count("okr: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_works(deepseek_folder: Path, tmp_path: Path) -> None:
    words = ("--setting", "max:1", "--samples", "2", "--keys", "2", "--length", "8", "--passages", "2")
    assert run(deepseek_folder, tmp_path, *words, "--seed", str(2**63 - 1)) in (0, 1)
