"""Families in vLLM under a key: the same tokens and experts as our own engine, whose tests hold it to the oracle."""

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
from okr.spec import oracle

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
    watch = {"watch": options.pop("watch")} if "watch" in options else {}
    job = watch | {
        "model": str(folder / "model"),
        "options": {"dtype": "float32", **options},
        "okr": {"key_file": str(key_file), **SECTION, "record": options.get("pipeline_parallel_size", 1) == 1},
        "prompts": PROMPTS,
        "sampling": {"max_tokens": NEW, "temperature": 0},
        "metrics": "disable_log_stats" in options,
    }
    *answers, measured = generate.run(job, folder, **environment)
    if "pipeline_parallel_size" in options:
        return model, answers, measured
    header = SETTING | {"key_id": Key.load(key_file).id}
    return model, [Trace.from_response(answer, model=model, **header) for answer in answers], measured


def own_traces(model: Any, key: Key) -> list[Trace]:
    """Traces of the same greedy texts by our own engine."""
    engine, options = okr.prepare(model), {"max_new_tokens": NEW, "do_sample": False}
    with okr.watermark(engine, key, **SETTING) as watermark:
        return [
            watermark.generate(torch.tensor([prompt]), eos_token_id=None, pad_token_id=0, **options).traces[0]
            for prompt in PROMPTS
        ]


def check_same(model: Any, traces: list[Trace], key: Key) -> None:
    """Compare with texts that our own engine generates greedily."""
    for own, trace in zip(own_traces(model, key), traces, strict=True):
        assert trace.token_ids.tolist() == own.token_ids.tolist()
        assert (np.sort(trace.experts, -1) == np.sort(own.experts, -1)).all()
        verdict = okr.verify(model, trace, key)
        assert verdict.hit_rate == 1.0
        assert verdict.watermarked


@pytest.mark.parametrize("family", SAME)
def test_a_family_routes_in_vllm_as_in_transformers(family: str, key_file: Path, tmp_path: Path) -> None:
    model, traces, _ = served(family, tmp_path, key_file, {})
    check_same(model, traces, Key.load(key_file))


@pytest.mark.parametrize("family", ["DeepSeek-V2", "DeepSeek-V3"])
def test_groups_of_experts_are_routed_as_the_oracle_allows(family: str, key_file: Path, tmp_path: Path) -> None:
    """vLLM's build for processors computes these families' attention otherwise than transformers, with or without a
    key. So their routers are judged by what they saw."""
    options = {"watch": str(tmp_path / "seen.npz")}
    model, _, _ = served(family, tmp_path, key_file, options, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    config, seen = model.config, np.load(tmp_path / "seen.npz")
    setting = oracle.Setting(config.num_experts_per_tok, math.inf, "boundary", SETTING["strength"])
    judged = 0
    for layer in (1, 2):
        hidden, logits, weights, experts = (
            seen[f"{part}{layer}"] for part in ("hidden", "logits", "weights", "experts")
        )
        bias = None
        if family == "DeepSeek-V3":
            bias = model.model.layers[layer].mlp.gate.e_score_correction_bias.numpy()
        choice, scores = grouped(logits, bias, config.n_group, config.topk_group)
        signs = oracle.projection(bytes(range(32)), stack="decoder", layer=layer, hidden_size=128, num_experts=16)
        keys, _ = oracle.key_scores(hidden, signs)
        for token in range(len(hidden)):
            chosen = experts[token].astype(int).tolist()
            by_choice = sorted(chosen, key=lambda expert: -choice[token, expert])
            assert oracle.illegal(choice[token].tolist(), keys[token].tolist(), setting, by_choice) == ""
            paid = scores[token, chosen]
            paid = paid / paid.sum() if bias is not None else paid  # vLLM scales what the experts return
            assert weights[token] == pytest.approx(paid, rel=1e-4)
            judged += sorted(np.argsort(-choice[token])[:4].tolist()) != sorted(chosen)
    assert judged > 20, "the key must have decided something"


def grouped(logits: np.ndarray, bias: Any, groups: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Choice scores float32 [T, E] and the scores that weights are made of, as the papers of both families say: the
    groups whose best expert (V2), or whose two best experts together (V3), are best."""
    logits = logits.astype(np.float64)
    scores = 1 / (1 + np.exp(-logits)) if bias is not None else np.exp(logits - np.logaddexp.reduce(logits, 1)[:, None])
    ranked = logits if bias is None else scores + bias
    parts = ranked.reshape(len(ranked), groups, -1)
    best = np.sort(parts, -1)[..., -1] if bias is None else np.sort(parts, -1)[..., -2:].sum(-1)
    barred = best < np.sort(best, 1)[:, -kept][:, None]
    choice = np.where(barred[:, :, None], -np.inf, parts).reshape(ranked.shape)
    return choice.astype(np.float32), scores


def test_two_processes_of_tensor_parallelism_route_alike(key_file: Path, tmp_path: Path) -> None:
    options = {"tensor_parallel_size": 2}
    model, traces, _ = served("DeepSeek-MoE", tmp_path, key_file, options, VLLM_CPU_OMP_THREADS_BIND="0|1")
    check_same(model, traces, Key.load(key_file))


def test_pipeline_parallelism_gives_the_same_text(key_file: Path, tmp_path: Path) -> None:
    options = {"pipeline_parallel_size": 2, "enforce_eager": False}
    model, answers, _ = served("DeepSeek-MoE", tmp_path, key_file, options, VLLM_CPU_OMP_THREADS_BIND="0|1")
    assert [answer["choices"][0]["token_ids"] for answer in answers] == [
        own.token_ids[-NEW:].tolist() for own in own_traces(model, Key.load(key_file))
    ]


def test_speculative_decoding_keeps_its_draft_model_native(key_file: Path, tmp_path: Path) -> None:
    """The draft proposes two tokens a step, most of which are rejected: their rows must not stay."""
    shapes.write("Mixtral", tmp_path / "draft")
    draft = {"method": "draft_model", "model": str(tmp_path / "draft"), "num_speculative_tokens": 2}
    options = {"speculative_config": {**draft, "max_model_len": 256}}
    model, traces, _ = served("DeepSeek-MoE", tmp_path, key_file, options)
    check_same(model, traces, Key.load(key_file))


def test_traces_of_bfloat16_judged_in_float32(key_file: Path, tmp_path: Path) -> None:
    model, traces, _ = served("Qwen3-MoE", tmp_path, key_file, {"dtype": "bfloat16"})
    verdicts = okr.verify_each(model, traces, Key.load(key_file)).each
    assert min(verdict.hit_rate for verdict in verdicts) >= 0.99


def test_a_preempted_request_keeps_its_trace(key_file: Path, tmp_path: Path) -> None:
    """The cache holds too few tokens for all requests to end, so that some are computed again."""
    options = {"num_gpu_blocks_override": 4, "block_size": 32, "disable_log_stats": False, "max_model_len": 64}
    model, traces, measured = served("DeepSeek-MoE", tmp_path, key_file, options)
    assert measured["preempted"] > 0
    check_same(model, traces, Key.load(key_file))
