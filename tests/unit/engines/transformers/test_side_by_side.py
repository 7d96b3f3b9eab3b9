"""One model in several threads, tasks and loops at a time: what is recorded is what that call ran."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from small_models import random_deepseek
from transformers import LogitsProcessor, StoppingCriteria, TextIteratorStreamer

import okr
from okr import UnsupportedGeneration

SETTING = {"epsilon": 1.0, "zone": "boundary"}
IDS = torch.arange(3, 27).view(4, 6)
HOW = {"max_new_tokens": 6, "do_sample": False}


def same(found, wanted):
    assert found.token_ids.tolist() == wanted.token_ids.tolist()
    assert np.array_equal(found.experts, wanted.experts)


class Raising(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        raise RuntimeError("the client hung up")


class Waiting(LogitsProcessor):
    """Stops a generation at its second token until it is let go."""

    def __init__(self):
        self.there, self.go, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        if self.calls == 2:
            self.there.set()
            assert self.go.wait(60)
        return scores


def test_requests_of_different_shapes_in_a_pool(deepseek, key):
    """Batches of one to four rows; every fourth request fails on the way."""
    with okr.watermark(deepseek, key, **SETTING) as wm, ThreadPoolExecutor(8) as pool:
        wanted = [wm.generate(IDS[: 1 + n % 4], **HOW) for n in range(4)]
        bad = {"stopping_criteria": [Raising()]}
        jobs = [pool.submit(wm.generate, IDS[: 1 + n % 4], **HOW, **(bad if n % 4 == 3 else {})) for n in range(32)]
        for n, job in enumerate(jobs):
            if n % 4 == 3:
                with pytest.raises(RuntimeError, match="hung up"):
                    job.result()
                continue
            for found, expected in zip(job.result().traces, wanted[n % 4].traces, strict=True):
                same(found, expected)


def test_an_asynchronous_server(deepseek, key):
    async def serve(wm):
        return await asyncio.gather(*(asyncio.to_thread(wm.generate, IDS[n % 4][None], **HOW) for n in range(12)))

    with okr.watermark(deepseek, key, **SETTING) as wm:
        wanted = [wm.generate(IDS[n][None], **HOW).traces[0] for n in range(4)]
        for n, made in enumerate(asyncio.run(serve(wm))):
            same(made.traces[0], wanted[n % 4])


def test_a_streamed_generation_beside_a_recording(deepseek, key):
    tokenizer = okr.load("tiny-deepseek-moe").tokenizer
    with okr.watermark(deepseek, key, **SETTING) as wm, torch.no_grad():
        wanted = wm.generate(IDS[:1], **HOW).traces[0]
        streamer, made = TextIteratorStreamer(tokenizer, timeout=60), []
        thread = threading.Thread(target=lambda: made.append(wm.generate(IDS[:1], **HOW, streamer=streamer)))
        with wm.recording() as recording:
            thread.start()
            for _ in streamer:
                pass
            deepseek(input_ids=IDS)
            thread.join()
        assert [len(trace.token_ids) for trace in recording.traces(IDS)] == [6] * 4
    same(made[0].traces[0], wanted)


def test_autocast_in_one_thread_stays_in_it(deepseek, key):
    waiting = Waiting()

    def lowered():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return wm.generate(IDS[:1], **HOW, logits_processor=[waiting])

    with okr.watermark(deepseek, key, **SETTING) as wm, ThreadPoolExecutor(1) as pool:
        wanted = wm.generate(IDS[:1], **HOW).traces[0]
        job = pool.submit(lowered)
        assert waiting.there.wait(60)
        same(wm.generate(IDS[:1], **HOW).traces[0], wanted)
        waiting.go.set()
        assert job.result().traces[0].header != wanted.header


def test_a_generation_that_outlives_the_block_is_refused(deepseek, key):
    """From there on it would be routed natively, and its trace would be of both."""
    waiting = Waiting()
    with ThreadPoolExecutor(1) as pool:
        with okr.watermark(deepseek, key, **SETTING) as wm:
            job = pool.submit(wm.generate, IDS[:1], **HOW, logits_processor=[waiting])
            assert waiting.there.wait(60)
        waiting.go.set()
        with pytest.raises(UnsupportedGeneration, match="ended while"):
            job.result()
    with pytest.raises(UnsupportedGeneration, match="has ended"):
        wm.generate(IDS[:1], **HOW)


def test_two_models_at_a_time_in_one_thread(key, other_key):
    one, two = random_deepseek(), random_deepseek(num_hidden_layers=2)
    with okr.watermark(one, key, **SETTING) as first, okr.watermark(two, other_key, **SETTING) as second:
        with first.recording() as outer, torch.no_grad():
            one(input_ids=IDS)
            two(input_ids=IDS)
            same(second.generate(IDS[:1], **HOW).traces[0], second.generate(IDS[:1], **HOW).traces[0])
        traces = outer.traces(IDS)
    assert {okr.verify(one, trace, key, decoys=99, alpha=0.05).hit_rate for trace in traces} == {1.0}
