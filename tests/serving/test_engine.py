"""The engine for vLLM: it keeps the contract of engines, and finds what the engine for transformers finds."""

import math
from pathlib import Path
from typing import Any

import engine_contract
import numpy as np
import pytest
import torch
from engine_contract import CONTRACT, Case

import okr
from okr import InvalidTrace, Key, Trace
from okr.cli import execute

QUIET = {"zone": "boundary", "epsilon": math.inf, "strength": 0.1}
KEY = Key(bytes(range(32)))


@pytest.fixture(scope="module")
def engine() -> Any:
    from okr.engines.vllm import load_engine

    return load_engine("tiny", max_model_len=512)


@pytest.fixture
def case(engine: Any) -> Case:
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=40, min_tokens=40, seed=0, detokenize=False)
    return Case(engine, None, {"sampling_params": sampling}, [[3, 5, 7], [4, 6, 8]])


@pytest.fixture(scope="module")
def traces(model: Any) -> list[Trace]:
    """Traces that transformers made: four texts under the key, and four without."""
    prompt = torch.tensor([[1, 498, 2058]] * 4)
    options = {"max_new_tokens": 40, "do_sample": True, "min_new_tokens": 40}
    with okr.watermark(model, KEY, setting="quiet") as watermark:
        keyed = watermark.generate(prompt, **options).traces
    with okr.record(model) as recorder:
        return [*keyed, *recorder.generate(prompt, **options).traces]


@pytest.mark.parametrize(
    "clause",
    [clause for clause in CONTRACT if clause is not engine_contract.traces_of_another_model_are_refused],
    ids=lambda clause: clause.__name__,
)
def test_the_engine_keeps_the_contract(case: Case, clause: Any) -> None:
    clause(case)


def test_the_same_traces_have_the_same_p_values_as_in_transformers(engine: Any, model: Any, traces: Any) -> None:
    assert okr.prepare(model).identity().difference(engine.identity()) == ""
    for trace in traces:
        here, there = (okr.verify(judge, trace, KEY, **QUIET) for judge in (engine, model))
        assert math.log(here.p_value) == pytest.approx(math.log(there.p_value), rel=1e-4, abs=1e-6)
        assert (here.hit_rate, here.rank_p, here.opportunities) == (there.hit_rate, there.rank_p, there.opportunities)
    assert okr.verify(engine, traces[:4], KEY).watermarked
    assert okr.attribute(engine, traces[:4], [Key.generate(), KEY]).key_id == KEY.id


def test_a_text_has_the_same_log_likelihood_as_in_transformers(engine: Any, model: Any, traces: Any) -> None:
    tokens = torch.from_numpy(traces[0].token_ids).long()
    asked = {"prompt_length": [3], "decoys": 19, "alpha": 0.1, "temperature": 0.8}
    setting = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}
    here, there = (okr.detect(judge, [tokens], KEY, **setting, **asked) for judge in (engine, model))
    assert here.log_likelihood == pytest.approx(there.log_likelihood, abs=1e-3)
    assert here.p_value == there.p_value


def test_a_replay_in_chunks_is_the_whole_replay(engine: Any, model: Any) -> None:
    """A trace of more tokens than a pass takes."""
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    kept = scheduler.max_num_scheduled_tokens
    prompt = torch.arange(3, 203)[None]
    with okr.watermark(model, KEY, setting="quiet") as watermark:
        trace = watermark.generate(prompt, max_new_tokens=20, do_sample=True).traces[0]
    whole = okr.verify(engine, trace, KEY)
    scheduler.max_num_scheduled_tokens = 64
    try:
        parts = okr.verify(engine, trace, KEY)
    finally:
        scheduler.max_num_scheduled_tokens = kept
    assert parts.hit_rate == whole.hit_rate == 1.0
    assert math.log(parts.p_value) == pytest.approx(math.log(whole.p_value), rel=1e-4)


def test_what_vllm_cannot_replay_is_refused(engine: Any, traces: Any) -> None:
    from dataclasses import replace

    trace = traces[0]
    other = trace.header.model.model_copy(update={"routers": "0" * 16})
    with pytest.raises(InvalidTrace, match="other router weights"):
        okr.verify(engine, replace(trace, header=trace.header.model_copy(update={"model": other})), KEY)
    long = np.zeros(600, np.int32)
    experts = np.full((599, *trace.experts.shape[1:]), -1, np.int16)
    with pytest.raises(InvalidTrace, match="raise max_model_len"):
        okr.verify(engine, replace(trace, token_ids=long, experts=experts), KEY)
    dropped = trace.experts.copy()
    dropped[5] = -2
    with pytest.raises(InvalidTrace, match="cannot replay"):
        okr.verify(engine, replace(trace, experts=dropped), KEY)


def test_the_harness_judges_the_router_that_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["conform", "vllm", "--profile", "smoke"]) == 0
    assert "conforms" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["LateTies", "NoStrength", "Reversed"])
def test_the_harness_catches_a_router_broken_inside_vllm(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["conform", f"{Path(__file__).parent / 'broken.py'}:{fault}", "--profile", "smoke"]) == 1
    assert "does not conform" in capsys.readouterr().out
