"""Rotary embeddings whose scaling changes with the length: traces are replayed by the passes that made them.

Every model scales from a length of 24 on, and its scaling changes the states much. What is verified is verified by the
model as loaded, which has seen no other sequence.
"""

import copy
from dataclasses import replace
from functools import cache, wraps
from importlib.metadata import version

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn

import okr
from okr import InvalidTrace, Key, Trace
from okr.engines.transformers.rotary import Scaling
from okr.traces import folded, unfolded

ORIGINAL, KEY = 24, Key(bytes(range(32)))
SIZE = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts_per_tok": 2,
}
DEEPSEEK = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
FAMILIES = {
    "Mixtral": {"head_dim": 16, "num_local_experts": 8},
    "Qwen3Moe": {"head_dim": 16, "moe_intermediate_size": 16, "num_experts": 8},
    "DeepseekV2": DEEPSEEK | {"topk_method": "greedy"},
    "DeepseekV3": DEEPSEEK | {"n_group": 4, "topk_group": 2},
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 2 * i for i in range(8)],
    "original_max_position_embeddings": ORIGINAL,
}


def build(family, kind):
    import transformers

    torch.manual_seed(0)
    if family == "Phimoe":
        rope = LONGROPE | {"short_mscale": 1.0, "long_mscale": 1.3}
        config = transformers.PhimoeConfig(
            **SIZE, num_local_experts=8, max_position_embeddings=128, rope_parameters=rope
        )
        config.original_max_position_embeddings = ORIGINAL
        return transformers.PhimoeForCausalLM(config).eval()
    rope = {"rope_parameters": dict(DYNAMIC if kind == "dynamic" else LONGROPE)}
    rope["max_position_embeddings"] = ORIGINAL if kind == "dynamic" else 128
    config = getattr(transformers, f"{family}Config")(**SIZE, **FAMILIES[family], **rope)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def prompts(*lengths):
    """Random prompts of these lengths, padded on the left."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[len(row) - length :] = torch.randint(3, 256, (length,))
    return {"input_ids": ids, "attention_mask": ids.ne(0).long()}


def generate(model, inputs, **options):
    given = {"max_new_tokens": 40, "do_sample": True, "eos_token_id": None, "pad_token_id": 0} | inputs | options
    with okr.watermark(model, KEY, epsilon=float("inf"), zone="boundary", strength=1.0) as wm:
        try:
            return wm.generate(**given)
        except okr.UnsupportedGeneration as error:
            if "this release of transformers does" in str(error) and Version(version("transformers")) < Version("5.23"):
                pytest.skip(str(error))
            raise


def rates(model, traces):
    """The hit rate of each trace, and that nothing lies outside the zone."""
    verdicts = [okr.verify(model, trace, KEY, decoys=19, alpha=0.05) for trace in traces]
    assert all(verdict.outside_zone == 0 for verdict in verdicts)
    return [verdict.hit_rate for verdict in verdicts]


MODELS = [("Phimoe", "longrope"), *((family, kind) for family in FAMILIES for kind in ("dynamic", "longrope"))]
SOME = [("Phimoe", "longrope"), ("Qwen3Moe", "dynamic"), ("Mixtral", "longrope")]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(("family", "kind"), MODELS)
def test_traces_of_scaled_models_match_their_key(family, kind, use_cache, tmp_path):
    """A batch of one, and one with padding in which the short sequence is scaled as the long one is."""
    model = build(family, kind)
    traces = []
    for lengths in ([9], [4, 12]):
        fresh = copy.deepcopy(model)
        traces += generate(fresh, prompts(*lengths), use_cache=use_cache, max_new_tokens=28).traces
    assert rates(model, traces) == [1.0] * 3
    traces[1].save(tmp_path / "t.safetensors")
    again = Trace.load(tmp_path / "t.safetensors")
    assert again.digest() == traces[1].digest()
    assert (again.passes == traces[1].passes).all()


def test_the_scaling_of_these_models_matters():
    """Seen at once, as without passes, the sequences have other states."""
    for family, kind in MODELS[1:3]:
        model = build(family, kind)
        (trace,) = generate(copy.deepcopy(model), prompts(9)).traces
        assert okr.verify(model, replace(trace, passes=None), KEY, decoys=19, alpha=0.05).hit_rate < 0.99


def test_a_cache_dropped_midway_begins_anew():
    """Phi-3.5-MoE sees everything again when its input outgrows the original length: those rows stand."""
    model = build("Phimoe", "longrope")
    (trace,) = generate(model, prompts(9)).traces
    assert unfolded(trace.passes) == [(25, 25), *((1, length) for length in range(26, 49))]
    assert (trace.experts >= 0).all()
    short = generate(model, prompts(9), max_new_tokens=15).traces[0]  # 23 inputs: all within the original length
    assert unfolded(short.passes) == [(9, 9), *((1, length) for length in range(10, 24))]


def test_a_cache_dropped_without_its_tokens_shown_again_is_refused():
    """As a release of transformers does it: every token would be generated from itself alone."""
    model = build("Phimoe", "longrope")
    prepare = model.prepare_inputs_for_generation

    @wraps(prepare)  # transformers reads its signature
    def forgetful(input_ids, **given):
        made = prepare(input_ids, **given)
        if input_ids.shape[1] > ORIGINAL:
            made |= {"past_key_values": None, "input_ids": input_ids[:, -1:]}
            made |= {"position_ids": made["position_ids"][:, -1:], "attention_mask": torch.ones_like(input_ids)}
        return made

    model.prepare_inputs_for_generation = forgetful
    with okr.record(model) as recorder, pytest.raises(okr.UnsupportedGeneration, match="shown 1 of 25 tokens"):
        recorder.generate(**prompts(9), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    with okr.record(model) as recorder:
        recorder.generate(**prompts(9), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_what_a_model_saw_before_changes_no_verdict(family, kind):
    """Dynamic NTK stays scaled to the longest sequence it saw, into the next generation and the next replay."""
    model = build(family, kind)
    used = copy.deepcopy(model)
    with torch.no_grad():
        used(input_ids=torch.randint(3, 256, (1, 80)))
    traces = generate(used, prompts(30)).traces + generate(used, prompts(30), max_new_tokens=60).traces
    traces += generate(used, prompts(5), max_new_tokens=30).traces
    assert rates(model, traces) == rates(used, traces) == [1.0] * 3
    if kind == "dynamic":
        assert unfolded(traces[0].passes)[0] == (0, 80)
        assert unfolded(traces[2].passes)[0] == (5, 5)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_a_replay_leaves_the_scaling_as_it_was(family, kind):
    model = build(family, kind)
    (trace,) = generate(copy.deepcopy(model), prompts(9)).traces
    for seen in (10, 60):
        with torch.no_grad():
            model(input_ids=torch.randint(3, 256, (1, seen)))
        before = rotary_state(model)
        okr.verify(model, trace, KEY, decoys=19, alpha=0.05)
        after = rotary_state(model)
        assert before.keys() == after.keys()
        assert all(torch.equal(*pair) for pair in zip(before.values(), after.values(), strict=True))


def rotary_state(model):
    return {
        (name, key): torch.as_tensor(value).clone()
        for name, module in model.named_modules()
        if hasattr(module, "rope_type")
        for key, value in {**vars(module), **module._buffers}.items()
        if isinstance(value, torch.Tensor | int | float)
    }


@pytest.mark.parametrize(("family", "kind"), SOME)
@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk_size": 5},
        {"num_return_sequences": 3},
        {"cache_implementation": "static"},
        {"eos_token_id": list(range(3, 40))},
        {"max_new_tokens": 2},
    ],
)
def test_ways_of_generating(family, kind, options):
    model = build(family, kind)
    traces = generate(copy.deepcopy(model), prompts(21, 14), **{"max_new_tokens": 9, **options}).traces
    assert rates(model, traces) == [1.0] * len(traces)


def test_a_second_turn_leaves_what_the_cache_held_unrecorded():
    """The native part runs as it ran the first time, so the rest is replayed exactly."""
    model = build("Mixtral", "dynamic")
    cache_of = copy.deepcopy(model)
    ids = prompts(30)["input_ids"]
    with torch.no_grad():
        cache = cache_of(input_ids=ids[:, :26], use_cache=True).past_key_values
    (trace,) = generate(cache_of, {"input_ids": ids}, past_key_values=cache).traces
    assert (trace.experts[:26] == -1).all()
    assert (trace.experts[26:] >= 0).all()
    assert unfolded(trace.passes)[:3] == [(26, 26), (4, 30), (1, 31)]
    assert rates(model, [trace]) == [1.0]
    with pytest.raises(okr.UnsupportedGeneration, match="must hold the tokens in the cache"):
        generate(cache_of, {"input_ids": ids[:, -1:]}, past_key_values=cache)


class OwnRotary(nn.Module):
    """A rotary embedding of a model's own: longer frequencies past the original length, and no name that says so."""

    def forward(self, x, position_ids):
        seen = position_ids.max() + 1
        base = torch.where(seen > ORIGINAL, 1000.0 * seen, torch.tensor(100.0))
        angles = position_ids[..., None] / base ** (torch.arange(8) / 8)
        return tuple(part(torch.cat([angles, angles], -1)).to(x.dtype) for part in (torch.cos, torch.sin))


def test_a_models_own_code_is_known_by_its_configuration():
    model = build("Mixtral", "dynamic")
    model.model.rotary_emb = OwnRotary()
    assert Scaling(model)
    for lengths in ([9], [9, 4, 12]):
        traces = generate(model, prompts(*lengths)).traces
        assert rates(model, traces) == [1.0] * len(lengths)


def test_scaling_by_layer_type():
    """One layer type grows with the length, the other does not."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    plain, grown = {"rope_type": "default", "rope_theta": 10000.0}, dict(DYNAMIC)
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, global_head_dim=16, hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=256, max_position_embeddings=ORIGINAL, enable_moe_block=True, num_experts=8,
        top_k_experts=2, moe_intermediate_size=16, initializer_range=0.2, num_kv_shared_layers=0,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        rope_parameters={"full_attention": grown, "sliding_attention": plain},
    )  # fmt: skip
    model = Gemma4ForCausalLM(config).eval()
    assert Scaling(model).limits == [("dynamic", ORIGINAL)]
    traces = generate(copy.deepcopy(model), prompts(9, 4)).traces
    assert rates(model, traces) == [1.0] * 2
    assert okr.verify(model, replace(traces[0], passes=None), KEY, decoys=19, alpha=0.05).hit_rate < 0.99


def test_models_that_do_not_scale_keep_no_passes(deepseek, switch):
    for model in (deepseek, switch):
        assert not Scaling(model)
        assert generate(model, {"input_ids": torch.randint(3, 256, (1, 5))}, max_new_tokens=3).traces[0].passes is None


GOOD = np.array([[1, 9, 9], [39, 1, 10]], np.int32)


@pytest.mark.parametrize(
    "passes",
    [
        GOOD.astype(np.int64),
        GOOD[:, :2],
        GOOD.ravel(),
        GOOD[:1],
        GOOD[:0],
        np.array([[1, 9, 8], [39, 1, 10]], np.int32),  # a length below what was seen
        np.array([[1, 9, 9], [39, 1, 2**31 - 12]], np.int32),
        np.array([[1, 9, 9], [40, 1, 10]], np.int32),
        np.array([[-1, -9, 9], [39, 1, 10]], np.int32),
        np.array([*GOOD, [1, 0, 60]], np.int32),
        np.array([[2**30, 0, 60], *GOOD], np.int32),
        np.array([[2**31 - 1, 2**31 - 1, 60], *GOOD], np.int32),
        GOOD.tolist(),
    ],
)
def test_passes_that_cannot_be_are_refused(passes):
    trace = cached_trace()
    with pytest.raises(InvalidTrace, match="passes"):
        replace(trace, passes=passes)


@cache
def cached_trace():
    torch.manual_seed(0)
    return generate(build("Mixtral", "longrope"), prompts(9)).traces[0]


def test_passes_as_runs():
    passes = [(0, 80), (9, 12), (1, 13), (1, 14), (2, 16), (2, 18), (1, 30), (1, 31)]
    runs = folded(passes)
    assert unfolded(runs) == passes
    assert runs.tolist() == [[1, 0, 80], [1, 9, 12], [2, 1, 13], [2, 2, 16], [2, 1, 30]]


def test_a_model_without_a_cache_refuses_passes_of_one(monkeypatch):
    model = build("Mixtral", "longrope")
    trace = cached_trace()
    forward = type(model).forward

    def without(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.past_key_values = None
        return output

    monkeypatch.setattr(type(model), "forward", without)
    with pytest.raises(InvalidTrace, match="returns none"):
        okr.verify(model, trace, KEY, decoys=19, alpha=0.05)
