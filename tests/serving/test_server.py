"""``okr serve``: a real server, real clients, and what its traces prove."""

import concurrent.futures
from typing import Any

import pytest
from scipy.stats import kstest
from servers import PROMPTS, SECRET, Server

import okr
from okr import Key, Trace

QUIET = {"zone": "boundary", "epsilon": float("inf"), "strength": 0.1}


@pytest.fixture(scope="module")
def engine(model: Any) -> Any:
    return okr.prepare(model)


def traces_of(response: dict[str, Any], model: Any) -> list[Trace]:
    return [Trace.from_response(response, model=model, choice=place) for place in range(len(response["choices"]))]


def hit_rate(engine: Any, trace: Trace) -> float:
    """The hit rate to three digits: rounding may turn one near-tie among thousands of choices."""
    rate = okr.verify(engine, trace, Key(SECRET), **QUIET).hit_rate
    assert rate is not None
    return round(float(rate), 3)


def test_keyed_texts_are_proven_and_those_that_opt_out_are_not(server: Server, model: Any, engine: Any) -> None:
    """50 texts of 48 tokens each. Under the null hypothesis a p-value is at most uniform; the test of that fails by
    chance with probability 1e-6. Requests have no seed: with a prompt in chunks it ends vLLM 0.32.0 on a processor
    ("CPU Generator does not use offset")."""
    asked = {"max_tokens": 48, "n": 5, "temperature": 1.0, "ignore_eos": True}
    prompts = [f"{PROMPTS[place % 6]} {place}" for place in range(10)]
    keyed = [server.complete(prompt, **asked) for prompt in prompts]
    native = [server.complete(prompt, vllm_xargs={"okr": False}, **asked) for prompt in prompts]
    key = Key(SECRET)
    assert {response["okr_key_id"] for response in keyed} == {key.id}
    assert not any("okr_key_id" in response for response in native)
    found = [okr.verify(engine, trace, key) for response in keyed for trace in traces_of(response, model)]
    control = [okr.verify(engine, trace, key, **QUIET) for response in native for trace in traces_of(response, model)]
    assert max(verdict.p_value for verdict in found) <= 1e-6
    assert min(verdict.hit_rate for verdict in found) >= 0.9995
    assert len(found) == len(control) == 50
    assert kstest([verdict.p_value for verdict in control], "uniform", alternative="greater").pvalue > 1e-6
    assert kstest([verdict.rank_p for verdict in control], "uniform", alternative="greater").pvalue > 1e-6


def test_greedy_text_is_that_of_the_transformers_engine(server: Server, model: Any, engine: Any) -> None:
    import torch

    served = traces_of(server.complete("The whale", max_tokens=48, temperature=0), model)[0]
    prompt = torch.from_numpy(served.token_ids[: served.prompt_length]).long()[None]
    with okr.watermark(engine, Key(SECRET), setting="quiet") as watermark:
        ours = watermark.generate(prompt, max_new_tokens=48, do_sample=False).traces[0]
    assert ours.token_ids.tolist() == served.token_ids.tolist()
    for site in range(len(ours.header.sites)):
        assert (sorted_rows(ours.site_experts(site)) == sorted_rows(served.site_experts(site))).all()


def sorted_rows(experts: Any) -> Any:
    import numpy as np

    return np.sort(experts, -1)


def test_requests_at_once_on_a_shared_prefix_keep_their_own_traces(server: Server, model: Any, engine: Any) -> None:
    """16 requests share a prefix that is longer than a step of 64 tokens, so it is computed in chunks once and then
    cached; every trace is wholly its own."""
    prefix = "It was the best of times, it was the worst of times, it was the age of wisdom, " * 6
    server.complete(prefix, max_tokens=4)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda place: server.complete(f"{prefix}{place}", max_tokens=32), range(16)))
    traces = [traces_of(answer, model)[0] for answer in answers]
    assert len({trace.digest() for trace in traces}) == 16
    assert all((trace.experts >= 0).all() for trace in traces), "rows of the cached prefix are there too"
    assert traces[0].prompt_length > 128
    assert {hit_rate(engine, trace) for trace in traces} == {1.0}
    assert "vllm:prefix_cache_hits_total" in server.get("/metrics")


def test_a_request_that_opts_out_shares_no_cached_prefix(server: Server, model: Any, engine: Any) -> None:
    """The same long prompt keyed, native, and keyed again: a prefix from the other kind would show in the swaps."""
    prompt = "There was no whale so white, and no captain so mad, as those of that long voyage; " * 16
    opted = {"vllm_xargs": {"okr": False}}
    for asked in ({}, opted, {}, opted):
        trace = traces_of(server.complete(prompt, max_tokens=8, **asked), model)[0]
        verdict = okr.verify(engine, trace, Key(SECRET), **QUIET)
        assert trace.prompt_length > 256, "two blocks of the cache, of 128 tokens on a processor"
        if asked:
            assert verdict.swaps <= 2, "but for near-ties, nothing ran that the model would not have run"
        else:
            assert round(verdict.hit_rate, 3) == 1.0
            assert verdict.swaps > 20


def test_an_aborted_request_disturbs_no_other(server: Server, model: Any, engine: Any) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    for _ in range(3):
        stream = client.completions.create(model="tiny", prompt="Stop", max_tokens=400, stream=True)
        next(iter(stream))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(server.complete, PROMPTS[place], max_tokens=40) for place in range(4)]
            stream.close()
            traces = [traces_of(done.result(), model)[0] for done in waiting]
        assert {hit_rate(engine, trace) for trace in traces} == {1.0}


def test_an_openai_client_can_tell_and_prove(server: Server, model: Any, engine: Any) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none")
    answer = client.completions.create(
        model="tiny", prompt="The whale", max_tokens=40, extra_body={"return_token_ids": True, "ignore_eos": True}
    )
    assert answer.okr_key_id == Key(SECRET).id
    assert okr.verify(engine, Trace.from_response(answer, model=model), Key(SECRET)).watermarked
    with client.completions.with_streaming_response.create(
        model="tiny", prompt="The whale", max_tokens=4, stream=True
    ) as streamed:
        assert streamed.headers["okr-key-id"] == Key(SECRET).id
