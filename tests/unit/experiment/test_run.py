"""A whole run on small untrained models: what it finds, and what it leaves behind."""

import json
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from small_runs import SMALL

import okr.jobs.loading as loading
from okr.detection import verify
from okr.errors import InvalidConfig
from okr.experiment import held_out_loss
from okr.experiment.agreement import check_figures
from okr.experiment.config import resolve
from okr.experiment.results import Results
from okr.experiment.runner import run
from okr.experiment.sampling import Subject, batch_seed, unrelated_key
from okr.loaders import load, passages, prediction
from okr.routing import Key
from okr.traces import Trace

Experiment = Callable[..., Results]


def test_every_watermarked_sample_carries_the_key_and_the_control_does_not_look_like_it(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    assert [sample.verdict.watermarked for sample in results.detailed_results] == [True] * SMALL["samples"]
    assert results.summary.average_hit_rate == 1.0
    assert results.summary.largest_p_value < 1e-6
    assert results.summary.control_smallest_p_value == 1.0
    assert results.summary.control_average_hit_rate < 0.9
    assert all(sample.new_tokens == SMALL["max_length"] for sample in results.detailed_results)


def test_the_run_leaves_these_files_and_no_other(finished: Path) -> None:
    traces = {f"traces/{g}-{i:04d}.safetensors" for g in ("watermarked", "control") for i in range(SMALL["samples"])}
    found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    tasks = {f"tasks/batch-{batch:04d}-{g}.json" for g in ("watermarked", "control") for batch in range(3)}
    tasks |= {"tasks/plan.json", "tasks/held-out-loss.json"}
    assert found == {"results.json", "report.html", "experiment.log", *tasks, *traces}


def test_each_verdict_is_what_verify_says_of_the_saved_trace(
    finished: Path, deepseek_folder: Path, key_file: Path
) -> None:
    results, model = Results.load(finished / "results.json"), load(deepseek_folder).model
    options = {"decoys": SMALL["decoys"], "alpha": SMALL["alpha"], **asdict(results.config.chosen())}
    for sample in (results.detailed_results[3], results.control_results[4]):
        trace = Trace.load(finished / sample.trace)
        verdict = verify(model, trace, Key.load(key_file), **options).as_dict()
        verdict["sites"] = list(verdict["sites"])
        assert sample.verdict.model_dump() == {name: verdict[name] for name in sample.verdict.model_dump()}
    control = results.control_results[4]
    unrelated = verify(model, Trace.load(finished / control.trace), unrelated_key(0, 4), **options)
    assert control.unrelated_p_value == unrelated.rank_p


def test_expert_loads_are_those_of_the_traces(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    for group, name in (("watermarked", "load"), ("control", "control_load")):
        traces = [Trace.load(path) for path in sorted((finished / "traces").glob(f"{group}-*"))]
        for index, site in enumerate(results.router_sites):
            experts = torch.cat([torch.from_numpy(trace.site_experts(index).copy()).flatten() for trace in traces])
            assert getattr(site, name) == experts.long().bincount(minlength=site.num_experts).tolist()
            assert sum(getattr(site, name)) > 0


def test_both_groups_start_from_the_same_prompts_and_seeds(finished: Path) -> None:
    for index in range(3):
        keyed, control = (
            json.loads((finished / "tasks" / f"batch-{index:04d}-{group}.json").read_text())["result"]
            for group in ("watermarked", "control")
        )
        assert keyed["seed"] == control["seed"] == batch_seed(0, index)
        assert [s["prompt"] for s in keyed["samples"]] == [s["prompt"] for s in control["samples"]]


def test_a_seed_repeats_a_run_and_another_seed_does_not(
    finished: Path, deepseek_folder: Path, experiment: Experiment, tmp_path: Path
) -> None:
    first = Results.load(finished / "results.json")
    again = experiment(deepseek_folder, tmp_path / "again")
    assert again.detailed_results == first.detailed_results
    assert again.quality == first.quality
    other = experiment(deepseek_folder, tmp_path / "other", seed=1, samples=1)
    assert other.detailed_results[0].watermarked_text != first.detailed_results[0].watermarked_text


def test_an_encoder_decoder_runs_from_its_own_configuration(
    switch_folder: Path, experiment: Experiment, tmp_path: Path
) -> None:
    results = experiment(switch_folder, tmp_path / "run", preset="tiny-switch", samples=3)
    assert results.summary.watermarked_samples == 3
    assert results.summary.average_hit_rate == 1.0
    assert {site.stack for site in results.router_sites} == {"encoder", "decoder"}
    assert results.quality.tokens > 0
    check_figures(results)


def test_a_fresh_key_is_saved_for_its_owner_only_and_used_again(
    deepseek_folder: Path, experiment: Experiment, tmp_path: Path
) -> None:
    first = experiment(deepseek_folder, tmp_path, key=None, samples=1)
    path = tmp_path / "key.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Key.load(path).id == first.key_id
    again = experiment(deepseek_folder, tmp_path, key=None, samples=1, resume=True)
    assert again.key_id == first.key_id
    path.unlink()
    with pytest.raises(InvalidConfig, match=r"key\.json is gone"):
        experiment(deepseek_folder, tmp_path, key=None, samples=1, resume=True)


def test_resuming_a_finished_run_changes_nothing(finished: Path, deepseek_folder: Path, experiment: Experiment) -> None:
    before = json.loads((finished / "results.json").read_text())
    experiment(deepseek_folder, finished, resume=True)
    after = json.loads((finished / "results.json").read_text())
    assert {n: v for n, v in before.items() if n != "timings"} == {n: v for n, v in after.items() if n != "timings"}


def test_a_damaged_trace_is_made_again(deepseek_folder: Path, experiment: Experiment, tmp_path: Path) -> None:
    first = experiment(deepseek_folder, tmp_path, samples=3)
    trace = tmp_path / "traces" / "control-0001.safetensors"
    whole = trace.read_bytes()
    trace.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "traces" / "watermarked-0002.safetensors").unlink()
    again = experiment(deepseek_folder, tmp_path, samples=3, resume=True)
    assert trace.read_bytes() == whole
    assert again.detailed_results == first.detailed_results
    assert again.control_results == first.control_results


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"samples": 6}, r"another configuration: samples \(was 5, now 6\)"),
        ({"epsilon": 1.0}, r"epsilon \(was inf, now 1.0\)"),
        ({"key": "other"}, r"was made under key \w{16}, not \w{16}"),
        ({"key": None}, r"was made under key \w{16}: add --key"),
        ({"model": "other"}, r"model \(was"),
    ],
)
def test_a_run_is_resumed_only_as_it_was(
    finished: Path,
    switch_folder: Path,
    deepseek_folder: Path,
    experiment: Experiment,
    tmp_path: Path,
    change: dict,
    complaint: str,
) -> None:
    other = tmp_path / "other.json"
    Key.generate().save(other)
    change = dict(change)
    if change.get("key") == "other":
        change["key"] = str(other)
    model = switch_folder if change.pop("model", None) else deepseek_folder
    plan = finished / "tasks" / "plan.json"
    before = plan.read_bytes()
    with pytest.raises(InvalidConfig, match=complaint):
        experiment(model, finished, resume=True, **change)
    assert plan.read_bytes() == before


def test_the_declared_expert_count_never_wins(deepseek_folder: Path, experiment: Experiment, tmp_path: Path) -> None:
    resolved = resolve(
        "deepseek-moe",
        SMALL | {"setting": None, "output_dir": str(tmp_path / "run"), "device": "cpu", "samples": 1, "batch_size": 1},
        environment={"QUICK_TEST": "1"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSEEK_MOE_LOCAL_PATH", str(deepseek_folder))
        results = run(resolved, resume=False)
    assert any("declared 64 routed experts" in note and "16 is used" in note for note in results.notes)
    assert any("declared top-8" in note and "4" in note for note in results.notes)
    assert "quick configuration (QUICK_TEST=1)" in results.notes
    assert results.config.epsilon == 2.0
    assert results.config.zone == "max"
    assert results.model.dtype == "bfloat16"
    assert (tmp_path / "run" / "deepseek_moe_experiment.log").read_text()


def test_the_memory_cap_leaves_the_host_and_other_cards_as_they_are(
    deepseek_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict] = []
    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "get_max_memory", lambda: {0: 80 * 2**30, 1: 30 * 2**30, "cpu": 500 * 2**30})
    monkeypatch.setattr(loading, "load", lambda model, **options: asked.append(options))
    flags = {"model": str(deepseek_folder), "output_dir": str(tmp_path)}
    for more in ({}, {"max_memory": "90GiB"}, {"device": "cuda:1"}):
        loading.load_placed(resolve("deepseek-moe", flags | more, environment={}).config)
    capped = {0: 70 * 2**30, 1: 30 * 2**30, "cpu": 500 * 2**30}
    assert [options["max_memory"] for options in asked] == [capped, capped | {0: 80 * 2**30}, None]
    assert [options["device_map"] for options in asked] == ["auto", "auto", "cuda:1"]


def test_site_rates_are_those_of_all_samples_pooled(finished: Path, deepseek_folder: Path, key_file: Path) -> None:
    results, model = Results.load(finished / "results.json"), load(deepseek_folder).model
    key, setting = Key.load(key_file), asdict(results.config.chosen())
    for group, rate in (("watermarked", "hit_rate"), ("control", "control_hit_rate")):
        traces = [Trace.load(path) for path in sorted((finished / "traces").glob(f"{group}-*"))]
        pooled = verify(model, traces, key, decoys=1, alpha=0.5, **setting)
        for site, score in zip(results.router_sites, pooled.sites, strict=True):
            assert getattr(site, rate) == pytest.approx(score.hit_rate)
            assert group == "control" or site.opportunities == score.opportunities


def test_every_control_sample_has_an_unrelated_key_of_its_own() -> None:
    keys = {unrelated_key(seed, sample).id for seed in range(3) for sample in range(20)}
    assert len(keys) == 60


@pytest.mark.parametrize("structure", ["deepseek_folder", "switch_folder"])
def test_the_loss_is_the_models_own_and_the_key_changes_it(
    structure: str, request: pytest.FixtureRequest, key_file: Path
) -> None:
    loaded = load(request.getfixturevalue(structure))
    config = resolve("tiny", SMALL | {"quality_passages": 2}, environment={}).config
    steps: list[int] = []
    measured = held_out_loss.measure(Subject(loaded, Key.load(key_file), config), steps.append)
    assert len(steps) == 4
    text, tokenizer = passages(1)[0].text, loaded.tokenizer

    def ids(part: str) -> torch.Tensor:
        return tokenizer(part, return_tensors="pt", truncation=True, max_length=prediction.MAX_TOKENS)["input_ids"]

    words = text.split()
    if loaded.model.config.is_encoder_decoder:
        source, target = (
            ids(" ".join(part)) for part in (words[: prediction.SOURCE_WORDS], words[prediction.SOURCE_WORDS :])
        )
        own = loaded.model(input_ids=source, labels=target).loss
    else:
        own = loaded.model(input_ids=ids(text), labels=ids(text)).loss
    assert measured.unkeyed[0] == pytest.approx(own.item(), rel=1e-5)
    assert all(keyed != unkeyed for keyed, unkeyed in zip(measured.keyed, measured.unkeyed, strict=True))
