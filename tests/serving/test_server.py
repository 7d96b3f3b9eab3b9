"""``okr serve``: a real server, real clients, and what its traces prove."""

import base64
import concurrent.futures
import json
import os
import signal
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kstest
from servers import Server

import okr
from okr import Key, Trace

SECRET = bytes(range(32))
QUIET = {"zone": "boundary", "epsilon": float("inf"), "strength": 0.1}
PROMPTS = ["The whale", "And it came to pass", "Call me Ishmael.", "In the beginning", "Once more", "The captain said"]


@pytest.fixture(scope="module")
def engine(model: Any) -> Any:
    return okr.prepare(model)


def traces_of(response: dict[str, Any], model: Any) -> list[Trace]:
    return [Trace.from_response(response, model=model, choice=place) for place in range(len(response["choices"]))]


def hit_rate(engine: Any, trace: Trace) -> float:
    rate = okr.verify(engine, trace, Key(SECRET), **QUIET).hit_rate
    assert rate is not None
    return float(rate)


def test_keyed_texts_are_proven_and_those_that_opt_out_are_not(server: Server, model: Any, engine: Any) -> None:
    """50 texts of 48 tokens each. Under the null hypothesis a p-value is at most uniform; the test of that fails by
    chance with probability 1e-6."""
    asked = {"max_tokens": 48, "n": 5, "temperature": 1.0, "ignore_eos": True}
    prompts = [f"{PROMPTS[place % 6]} {place}" for place in range(10)]
    keyed = [server.complete(prompt, seed=place, **asked) for place, prompt in enumerate(prompts)]
    native = [
        server.complete(prompt, seed=place, vllm_xargs={"okr": False}, **asked) for place, prompt in enumerate(prompts)
    ]
    key = Key(SECRET)
    assert {response["okr_key_id"] for response in keyed} == {key.id}
    assert not any("okr_key_id" in response for response in native)
    found = [okr.verify(engine, trace, key) for response in keyed for trace in traces_of(response, model)]
    control = [okr.verify(engine, trace, key, **QUIET) for response in native for trace in traces_of(response, model)]
    assert max(verdict.p_value for verdict in found) <= 1e-6
    assert min(verdict.hit_rate for verdict in found) == 1.0
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
        answers = list(
            pool.map(lambda place: server.complete(f"{prefix}{place}", max_tokens=32, seed=place), range(16))
        )
    traces = [traces_of(answer, model)[0] for answer in answers]
    assert len({trace.digest() for trace in traces}) == 16
    assert all((trace.experts >= 0).all() for trace in traces), "rows of the cached prefix are there too"
    assert traces[0].prompt_length > 128
    assert {hit_rate(engine, trace) for trace in traces} == {1.0}
    assert "vllm:prefix_cache_hits_total" in server.get("/metrics")


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


def test_the_journal_has_every_answer_when_the_server_is_killed(key_file: Path, tmp_path: Path, model: Any) -> None:
    """A killed server has lost the trace of no answer that a client has; started again it goes on."""
    import okr as package

    arguments = ["tiny", "--key", str(key_file), "--traces", str(tmp_path / "traces"), "--max-model-len", "256"]
    engine = package.prepare(model)
    had = set()
    for _ in range(2):
        with (
            Server([*arguments, "--enforce-eager"], tmp_path) as running,
            concurrent.futures.ThreadPoolExecutor(8) as pool,
        ):
            waiting = [pool.submit(running.complete, prompt, max_tokens=60, n=2) for prompt in PROMPTS * 2]
            for done in concurrent.futures.as_completed(waiting):
                had.add(done.result()["id"])
                if len(had) % 7 == 0:
                    break
            running.kill(signal.SIGKILL)
            for other in waiting:
                error = other.exception()
                if error is None:
                    had.add(other.result()["id"])
                else:
                    assert isinstance(error, urllib.error.URLError | OSError | ValueError)
        names = [path.name for path in (tmp_path / "traces").glob("*.safetensors")]
        for answer in had:
            assert len([name for name in names if answer in name]) == 2, answer
    traces = [Trace.load(path) for path in (tmp_path / "traces").glob("*.safetensors")]
    assert all(okr.verify(engine, trace, Key(SECRET)).watermarked for trace in traces)
    assert not list((tmp_path / "traces").glob("*.part")) or had


def secret_forms() -> list[bytes]:
    """The secret as it may be written down."""
    forms = [
        SECRET,
        SECRET.hex().encode(),
        base64.b64encode(SECRET),
        base64.urlsafe_b64encode(SECRET),
        repr(SECRET).encode(),
    ]
    return [*forms, SECRET.hex().upper().encode(), str(list(SECRET)).encode(), ",".join(map(str, SECRET)).encode()]


def test_the_secret_is_nowhere_to_be_seen(key_file: Path, tmp_path: Path) -> None:
    """Neither in the log, the metrics, the models, the command lines, the environments, an answer, a trace, nor in what
    the server prints when its worker dies."""
    held = json.loads(key_file.read_text())
    forms = secret_forms() + [str(value).encode() for value in held.values() if len(str(value)) >= 32]
    arguments = ["tiny", "--key", str(key_file), "--traces", str(tmp_path / "traces"), "--enforce-eager"]
    with Server([*arguments, "--max-model-len", "256"], tmp_path) as running:
        answer = json.dumps(running.complete("The whale", max_tokens=8))
        shown = [answer, running.get("/metrics"), running.get("/v1/models"), running.get("/version")]
        processes = running.pids()
        seen = [Path(f"/proc/{pid}/{part}").read_bytes() for pid in processes for part in ("cmdline", "environ")]
        assert len(processes) >= 3
        worker = next(pid for pid in processes if b"Worker" in Path(f"/proc/{pid}/comm").read_bytes())
        os.kill(worker, signal.SIGABRT)
        with pytest.raises((OSError, urllib.error.URLError)):
            running.complete("The whale", max_tokens=200)
    seen += [text.encode() for text in shown] + [running.log.encode()]
    seen += [path.read_bytes() for path in (tmp_path / "traces").iterdir()]
    assert not [form for form in forms for text in seen if form in text]
    assert "okr" in running.log
    assert Key(SECRET).id in answer
