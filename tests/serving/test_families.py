"""Families in vLLM under a key: the same tokens and experts as our own engine, whose own tests hold it to the
oracle."""

import math
from pathlib import Path
from typing import Any

import generate
import numpy as np
import pytest
import shapes
import torch

import okr
from okr import Key, Trace

SETTING = {"zone": "boundary", "epsilon": math.inf, "strength": 0.5}
SECTION = {"zone": "boundary", "epsilon": "inf", "strength": 0.5}
PROMPTS = [list(range(10, 10 + count)) for count in (5, 17, 30)]
SAME = ["Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "DeepSeek-MoE", "GLM-4-MoE", "gpt-oss"]
NEW = 24


def served(
    family: str, folder: Path, key_file: Path, options: dict[str, Any], **environment: str
) -> tuple[Any, list[Trace], dict[str, Any]]:
    """The model, the traces of greedy texts in vLLM, and what else was measured."""
    model = shapes.write(family, folder / "model")
    job = {
        "model": str(folder / "model"),
        "options": {"dtype": "float32", **options},
        "okr": {"key_file": str(key_file), **SECTION},
        "prompts": PROMPTS,
        "sampling": {"max_tokens": NEW, "temperature": 0},
        "metrics": "disable_log_stats" in options,
    }
    *answers, measured = generate.run(job, folder, **environment)
    header = SETTING | {"key_id": Key.load(key_file).id}
    return model, [Trace.from_response(answer, model=model, **header) for answer in answers], measured


def check_same(model: Any, traces: list[Trace], key: Key) -> None:
    """Compare with texts that our own engine generates greedily."""
    engine = okr.prepare(model)
    for prompt, trace in zip(PROMPTS, traces, strict=True):
        with okr.watermark(engine, key, **SETTING) as watermark:
            given = torch.tensor([prompt])
            options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            own = watermark.generate(given, **options).traces[0]
        assert trace.token_ids.tolist() == own.token_ids.tolist()
        assert (np.sort(trace.experts, -1) == np.sort(own.experts, -1)).all()
        verdict = okr.verify(engine, trace, key)
        assert verdict.hit_rate == 1.0
        assert verdict.watermarked


@pytest.mark.parametrize("family", SAME)
def test_a_family_routes_in_vllm_as_in_transformers(family: str, key_file: Path, tmp_path: Path) -> None:
    model, traces, _ = served(family, tmp_path, key_file, {})
    check_same(model, traces, Key.load(key_file))


def test_two_processes_of_tensor_parallelism_route_alike(key_file: Path, tmp_path: Path) -> None:
    options = {"tensor_parallel_size": 2}
    model, traces, _ = served("DeepSeek-MoE", tmp_path, key_file, options, VLLM_CPU_OMP_THREADS_BIND="0|1")
    check_same(model, traces, Key.load(key_file))


def test_a_preempted_request_keeps_its_trace(key_file: Path, tmp_path: Path) -> None:
    """The cache holds too few tokens for all requests to end, so that some are computed again."""
    options = {"num_gpu_blocks_override": 4, "block_size": 32, "disable_log_stats": False, "max_model_len": 64}
    model, traces, measured = served("DeepSeek-MoE", tmp_path, key_file, options)
    assert measured["preempted"] > 0
    check_same(model, traces, Key.load(key_file))
