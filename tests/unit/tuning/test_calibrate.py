"""okr calibrate: what it measures, which settings it finds, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from okr.cli import execute
from okr.experiment.presets import named_for
from okr.routing import SETTINGS
from okr.tuning.measuring import BATCH, _batches, text_needed, trace_needed
from okr.tuning.plot import calibration_plot
from okr.tuning.sweep import Calibration, Measured, Sweep, Target, TextNeeded, TraceProof

FAST = ["--samples", "2", "--keys", "2", "--length", "8", "--trace-tokens", "8", "--passages", "2"]
SWEEP = Sweep(
    model="m", settings=(("max", 1.0, math.inf),), passages=2, text_digest="", samples=2, keys=1, tokens=8, decoys=7,
    temperature=1.0, seed=0,
)  # fmt: skip


def run(folder: Path, out: Path, *words: str) -> int:
    return execute(["calibrate", str(folder), "--output-dir", str(out), *FAST, *words])


def test_a_sweep_can_be_interrupted_and_goes_on(
    deepseek_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """A sweep cut in its first dtype and in its second, and resumed, is the sweep that was never cut."""
    settings = ["--setting", "boundary:1", "--setting", "max:2:1.5", "--dtype", "float32", "--dtype", "bfloat16"]
    assert run(deepseek_folder, tmp_path / "whole", *settings, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    whole = Calibration.load(tmp_path / "whole" / "calibration.json")
    assert whole.quiet is not None
    assert document["quiet"]["options"] == whole.quiet.options
    assert document["measured"][1]["strength"] == 1.5
    assert [proof.dtype for line in whole.measured for proof in line.traces] == ["float32", "bfloat16"] * 2
    assert all(proof.hit_rate > 0.5 for line in whole.measured for proof in line.traces)
    shutil.copytree(tmp_path / "whole" / "tasks", tmp_path / "cut" / "tasks")
    for task in ("001-max-2-1.5.json", "bfloat16/000-boundary-1-inf.json"):
        (tmp_path / "cut" / "tasks" / task).unlink()
    assert run(deepseek_folder, tmp_path / "cut", *settings) == 2
    assert "--resume" in capfd.readouterr().err
    assert run(deepseek_folder, tmp_path / "cut", *settings, "--resume") == 0
    assert Calibration.load(tmp_path / "cut" / "calibration.json") == whole
    assert run(deepseek_folder, tmp_path / "cut", *settings, "--seed", "1", "--resume") == 2
    assert "other options" in capfd.readouterr().err
    assert run(deepseek_folder, tmp_path / "cut", *settings[:-2], "--resume") == 2
    assert (tmp_path / "whole" / "calibration.svg").read_text().startswith("<svg")


def test_epsilon_zero_costs_nothing_and_proves_nothing(
    switch_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert run(switch_folder, tmp_path, "--setting", "max:0") == 1
    said = capfd.readouterr().out
    assert "quiet: no setting is proven by traces within 8 tokens" in said
    assert "loud:  no setting is found by text within 400 tokens" in said
    line = Calibration.load(tmp_path / "calibration.json").measured[0]
    assert (line.cost, line.opportunity_rate) == (0.0, 0.0)
    assert [(proof.hit_rate, proof.tokens) for proof in line.traces] == [(None, None)]
    assert all(need.tokens is None for need in line.text)


def test_a_named_setting_is_measured_as_the_presets_have_it(tmp_path: Path) -> None:
    words = ["--setting", "quiet", "--setting", "loud", "--samples", "2", "--keys", "1", "--length", "8",
             "--trace-tokens", "8", "--passages", "2"]  # fmt: skip
    assert execute(["calibrate", "tiny-switch", "--output-dir", str(tmp_path), *words]) in (0, 1)
    measured = Calibration.load(tmp_path / "calibration.json").measured
    assert [line.strength for line in measured] == [named_for("tiny-switch")[name].strength for name in SETTINGS]


def test_tokens_needed_follow_their_definitions() -> None:
    """By trace: from there on 95% are found. By text: where a normal z reaches that power."""
    p = np.ones((20, 10))
    p[:, 3:] = 0.001
    p[:2, 5] = 0.5  # found at 4 and 5 tokens, lost once more at 6
    assert trace_needed(p) == 7
    assert trace_needed(np.ones((4, 10))) is None
    z = np.random.default_rng(0).normal(3.0, 0.5, 400)
    need = text_needed(0.01, z, tokens=100)
    assert need.tokens is not None
    assert need.low is not None
    assert need.high is not None
    assert need.low < need.tokens < need.high
    power = norm.sf(norm.isf(0.01) - z.mean() * math.sqrt(need.tokens / 100))
    assert power == pytest.approx(0.95, abs=0.005)


@given(samples=st.integers(2, 60), keys=st.integers(1, 9))
def test_every_sample_is_made_once_in_a_batch_of_eight_at_most(samples: int, keys: int) -> None:
    sweep = SWEEP.model_copy(update={"samples": samples, "keys": keys})
    batches = [batch for number in range(keys) for batch in _batches(sweep, number)]
    assert [sample for batch in batches for sample in batch] == list(range(samples))
    assert all(1 <= len(batch) <= BATCH == 8 for batch in batches)
    assert len(batches) <= keys + samples / BATCH


def line(strength: float, cost: float, traces: tuple[int | None, ...], text: int | None) -> Measured:
    return Measured(
        zone="boundary", epsilon=math.inf, strength=strength, opportunity_rate=1.0, cost=cost, cost_low=cost - 0.1,
        cost_high=cost + 0.1, text_z=1.0, text=(TextNeeded(fpr=0.01, tokens=text, low=text, high=None),),
        traces=tuple(TraceProof(dtype="float32", hit_rate=0.9, tokens=tokens) for tokens in traces),
    )  # fmt: skip


# mostly in time: two settings or more must be fit for a choice
_BY_TRACE, _BY_TEXT = st.sampled_from([3, 9, 15, 16, 17, None]), st.sampled_from([5, 19, 20, 21, None])


@given(
    lines=st.lists(
        st.builds(
            line,
            strength=st.sampled_from([0.1, 0.2, 0.5, 1.0]),
            cost=st.floats(-0.1, 0.5),
            traces=st.tuples(_BY_TRACE, _BY_TRACE),
            text=_BY_TEXT,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_quiet_is_the_weakest_that_every_dtype_proves_and_loud_the_cheapest_in_text(lines: list[Measured]) -> None:
    found = Calibration.of(SWEEP, Target(trace_tokens=16, text_tokens=20, fpr=0.01), lines)
    proven = [each for each in lines if all(p.tokens is not None and p.tokens <= 16 for p in each.traces)]
    shown = [each for each in lines if each.text[0].tokens is not None and each.text[0].tokens <= 20]
    assert (found.quiet is None) == (not proven)
    assert (found.loud is None) == (not shown)
    if found.quiet is not None:
        assert found.quiet.strength == min(each.strength for each in proven)
        assert found.quiet.tokens <= 16
        assert f"--strength {found.quiet.strength:g}" in found.quiet.options
    if found.loud is not None:
        assert found.loud.cost == min(each.cost for each in shown)
        assert found.loud.tokens <= 20


def test_the_plot_names_both_settings() -> None:
    lines = (line(0.1, 0.0, (9, 12), None), line(1.0, 0.02, (1, 1), 300))
    plot = calibration_plot(Calibration.of(SWEEP, Target(), lines))
    assert all(f">{word}<" in plot or f"<!-- {word} -->" in plot for word in ("quiet", "loud"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--setting", "middle:1"], "ZONE:EPSILON"),
        (["--setting", "max"], "ZONE:EPSILON"),
        (["--setting", "max:-1"], "ZONE:EPSILON"),
        (["--setting", "max:1:0"], "ZONE:EPSILON"),
        (["--setting", "max:nan"], "ZONE:EPSILON"),
        (["--setting", "silent"], "neither quiet nor loud nor ZONE:EPSILON"),
        (["--fpr", "0.5"], "--fpr"),
        (["--trace-tokens", "9"], "--length 8 is less than --trace-tokens 9"),
        (["--trace-tokens", "0"], "--trace-tokens"),
        (["--dtype", "float8"], "--dtype: must be 'auto', 'float32'"),
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

    monkeypatch.setattr("okr.tuning.measuring.passage_loss", measured)
    assert run(deepseek_folder, tmp_path / "deep" / "out", "--setting", "max:1", "--length", length) == 2
    said = capfd.readouterr().err
    assert ("512 positions: at most" if length != "100001" else "--length: Input should be less") in said
    assert said.count("okr: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_works(deepseek_folder: Path, tmp_path: Path) -> None:
    assert run(deepseek_folder, tmp_path, "--setting", "max:1", "--seed", str(2**63 - 1)) in (0, 1)
