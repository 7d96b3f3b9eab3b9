"""The sample of a model's weights: the same for roundings of one model, another for another, and never trusted."""

import base64
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_models import random_deepseek, random_switch
from torch import nn

import okr
from okr.traces import ModelIdentity, TraceHeader
from okr.traces.weights import ROW, ROWS, WeightSample, _index


def identity(model):
    return ModelIdentity.of(model, [site for site in okr.discover(model) if site.keyable])


def others(model):
    """The parameters that no router holds, by name."""
    routers = [site.path for site in okr.discover(model)]
    return {
        name: value
        for name, value in model.named_parameters()
        if not name.startswith((*routers, "lm_head")) and value.numel() > 1
    }


def sample(values):
    rows = np.asarray(values, np.float16).reshape(-1, ROW)
    return WeightSample(places="0" * 16, values=base64.b64encode(rows.astype("<f2").tobytes()).decode())


def test_a_change_of_two_percent_in_any_weight_is_seen():
    """Each weight by itself: whatever is fine-tuned, even one layer, is sampled."""
    for make in (random_deepseek, random_switch):
        model = make()
        before = identity(model)
        for value in others(model).values():
            kept = value.detach().clone()
            with torch.no_grad():
                value += 0.02 * kept.abs().max() * torch.randn_like(value).sign()
            assert before.difference(identity(model)) == "weights"
            with torch.no_grad():
                value.copy_(kept)
        assert before == identity(model)


@pytest.mark.parametrize("change", [lambda w: -w, lambda w: 1.05 * w, lambda w: w.flip(-1)])
def test_signs_scale_and_order_are_seen(change):
    model = random_deepseek()
    before = identity(model)
    with torch.no_grad():
        weight = model.model.layers[1].self_attn.o_proj.weight
        weight.copy_(change(weight))
    assert before.difference(identity(model)) == "weights"


@given(st.integers(0, 2**31), st.sampled_from([torch.bfloat16, torch.float16]))
def test_rounding_is_not_seen(seed, dtype):
    """Weights of any scale that a model has. Never by chance: 2^-9 and twice 2^-11 are below the tolerance."""
    torch.manual_seed(seed)
    scale = 10.0 ** torch.empty(1).uniform_(-2, 1).item()
    values = scale * torch.randn(ROW * 4) * torch.rand(ROW * 4)
    assert sample(values.numpy()).agrees(sample(values.to(dtype).float().numpy()))


@pytest.mark.parametrize(("share", "same"), [(0.5, True), (1.0, True), (1.0625, False), (2.0, False)])
def test_what_is_negligible_beside_nothing(share, same):
    """Float16 rounds small numbers to multiples of 2^-24."""
    assert sample([0.0] * ROW).agrees(sample([share * 2.0**-20] * ROW)) is same
    assert sample([100 * 2.0**-24] * ROW).agrees(sample([83 * 2.0**-24] * ROW)), "exactly as much as is tolerated"


@given(st.lists(st.floats(allow_nan=True, width=16), min_size=ROW, max_size=ROW))
def test_what_is_not_at_hand_on_one_side_is_not_compared(values):
    known = sample(values)
    nothing = sample([math.nan] * ROW)
    assert known.agrees(known)
    effect = any(value == math.inf for value in values)  # an adapter acts there: not the same as none
    assert known.agrees(nothing) is nothing.agrees(known) is not effect


def test_offloaded_and_quantised_weights_are_unknown():
    model, whole = random_deepseek(), random_deepseek()
    weight = model.model.layers[1].self_attn.q_proj.weight
    model.model.layers[1].self_attn.q_proj.weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    model.model.layers[2].to("meta")
    assert not identity(model).difference(identity(whole))
    with torch.no_grad():
        whole.model.layers[0].self_attn.q_proj.weight *= 2
    assert identity(model).difference(identity(whole)) == "weights"
    found = identity(model.to("meta"))
    assert (found.routers, found.weights) == (None, None)
    assert not found.difference(identity(whole))


@pytest.mark.parametrize("name", ["tiny-deepseek-moe", "tiny-switch"])
def test_a_trace_made_in_eight_bits_is_judged_in_float32(name, key):
    small, whole = okr.load(name, quantization="8bit"), okr.load(name)
    inputs = small.tokenizer("The whale came up, and the boat", return_tensors="pt")
    given_ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with okr.watermark(small.model, key, epsilon=math.inf, zone="boundary", strength=4.0) as wm:
        trace = wm.generate(**given_ids, max_new_tokens=24, min_new_tokens=24, do_sample=False).traces[0]
    assert okr.verify(whole.model, trace, key).hit_rate > 0.9


def test_which_entries_are_sampled_stays_as_it_is():
    """Or traces of other versions are of other models."""
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 9), nn.Embedding(11, 3), nn.Conv1d(2, 6, 3))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.arange(value.numel()).view(value.shape) / 64)
    found = WeightSample.of(model)
    assert found.places == "600de215bd308ef1"
    assert hashlib.sha256(found.values.encode()).hexdigest()[:16] == "3895d09f650e34f6"


def test_entries_of_very_large_weights_stay_where_they_are():
    """The index along each axis is a word of 32 bits, less what lies beyond the power of two."""
    words = [int.from_bytes(hashlib.sha256(b"kind\x0059").digest()[4 * axis :][:4], "big") for axis in range(5)]
    for power in (8, 9, 20, 31, 40):
        shape = torch.Size([2**power + 1] * 5)
        assert _index("kind", 59, shape) == tuple(word % 2**power for word in words)


def test_output_embeddings_are_not_sampled():
    """No hidden state depends on them, so a trace does not either."""
    model = random_deepseek()
    before, size = identity(model), model.lm_head.weight.norm()
    with torch.no_grad():
        model.lm_head.weight.mul_(-3)
    assert model.lm_head.weight.norm() > 2 * size
    assert identity(model) == before


def test_a_sample_of_one_kind_of_weights_or_of_none():
    found = WeightSample.of(nn.Sequential(nn.Embedding(11, 3)))
    assert len(base64.b64decode(found.values)) == 2 * ROW * ROWS
    assert WeightSample.of(nn.Sequential()) is None


def test_the_sample_is_small_whatever_the_model():
    """Few entries, however many modules: here 3 * 64 matrices of experts a layer."""
    from okr.loaders.deepseek import DeepseekConfig, register
    from okr.loaders.quantised import DeepseekLinearForCausalLM

    register()
    sizes = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 8}
    experts = {"moe_intermediate_size": 4, "n_routed_experts": 64, "num_experts_per_tok": 2}
    found = WeightSample.of(DeepseekLinearForCausalLM(DeepseekConfig(**sizes, **experts, num_attention_heads=2)))
    assert len(base64.b64decode(found.values)) <= 2 * ROW * ROWS
    assert len(found.model_dump_json()) < 1600


@pytest.mark.parametrize(
    "change",
    [
        {"values": ""},
        {"values": "AAAA"},
        {"values": "?" * 4 * ROW},
        {"values": "é" * 4 * ROW},
        {"values": base64.b64encode(bytes(2 * ROW * (ROWS + 1))).decode()},
        {"places": "g" * 16},
        {"places": "0" * 15},
        {"more": 1},
        {"values": 7},
    ],
)
def test_a_sample_that_is_none_is_refused(change):
    good = sample([1.0] * ROW).model_dump()
    WeightSample.model_validate_json(json.dumps(good))
    with pytest.raises(ValidationError):
        WeightSample.model_validate_json(json.dumps(good | change))


OLDER = (
    '{"spec_version":"1.0","model":{"class_name":"DeepseekForCausalLM","structure":"d414f65afcac8a42",'
    '"routers":"1fae6b0313996b0c"},"sites":[{"path":"model.layers.1.mlp.gate","stack":"decoder","layer":1,'
    '"num_experts":16,"top_k":4}],"dtype":"float32","key_id":"219e099672dcad56","zone":"boundary","epsilon":"inf",'
    '"strength":1.0}'
)


def test_headers_from_before_the_sample_stay_as_they_are_and_verify(key):
    """The checksum of a file covers its header as it was written."""
    header = TraceHeader.model_validate_json(OLDER)
    assert header.model_dump_json() == OLDER
    experts = [[[2, 12, 15, 9]], [[15, 5, 8, 0]], [[1, 12, 13, 14]], [[12, 7, 15, 14]]]
    tokens = np.array([5, 6, 7, 164, 55], np.int32)
    trace = okr.Trace(header=header, token_ids=tokens, experts=np.array(experts, np.int16), prompt_length=3)
    assert trace.digest().hex() == "306df5f45d0e4b8524fa509d1f6ccde6267a10eebbcea215f675e1392cebc9d7"
    model = random_deepseek(num_hidden_layers=2)
    assert okr.verify(model, trace, key, decoys=9, alpha=0.1).hit_rate == 1.0
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight.mul_(1.5)
    with pytest.raises(okr.InvalidTrace):
        okr.verify(model, trace, key, decoys=9, alpha=0.1)
