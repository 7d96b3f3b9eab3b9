"""Keyed routing under autocast, in every family: the family computes in 16 bits as it would, the algorithm does not."""

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr import Key, discover, record, watermark
from okr.engines.transformers import proof
from okr.engines.transformers.attaching import attached
from okr.engines.transformers.routings import Forced, Keyed
from okr.routing import Setting
from tests.unit.discovery.zoo import build, make, run
from tests.unit.engines.transformers.families.observed import calls_of
from tests.unit.engines.transformers.families.oracle import RULES, activation, is_legal, weights
from tests.unit.engines.transformers.families.test_fused_routers import FAMILIES as HOT
from tests.unit.engines.transformers.families.test_fused_routers import first_attachment
from tests.unit.engines.transformers.families.test_keyed_families import KEYED, prepared

# DBRX's experts add 16-bit results to float32 ones, which torch refuses: unkeyed, too, it does not run.
RUN = [name for name in KEYED if name != "dbrx"]
LOWER = [torch.bfloat16, torch.float16]
ROUNDING = {torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}  # of a few operations
SETTINGS = [
    {"epsilon": 0.3, "zone": "max", "strength": math.inf},
    {"epsilon": 1.0, "zone": "boundary", "strength": 1.0},
    {"epsilon": math.inf, "zone": "boundary", "strength": math.inf},
]
EVERYTHING = {"epsilon": math.inf, "zone": "boundary"}
KEY = Key(bytes(range(32)))


@contextmanager
def ranked():
    """Every call of a keyed router within the block: its site and the scores that it ranks, in float64."""
    seen, choose = [], Keyed.choose

    def spy(self, scores, hidden, native):
        seen.append((self.site, scores.detach().double().numpy()))
        return choose(self, scores, hidden, native)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keyed, "choose", spy)
        yield seen


def check(call, scores, setting, rounding):
    """Every token runs what is legal for the scores that its router ranks, which are the family's own up to rounding,
    and is paid what the family pays."""
    site, rule = call.site, RULES[call.site.router_class]
    expected = activation(rule.choice, call.logits) + (0.0 if call.bias is None else call.bias)
    barred = ~np.isfinite(scores) | (scores == 0)
    np.testing.assert_allclose(scores[~barred], expected[~barred], rtol=rounding, atol=rounding, err_msg=site.path)
    with np.errstate(divide="ignore"):
        choice = np.log(scores) if site.ranks == "probabilities" else scores
    signs = KEY.projection(
        stack=site.stack, layer=site.layer, hidden_size=site.hidden_size, num_experts=site.num_experts
    )
    length = np.linalg.norm(call.hidden, axis=-1, keepdims=True)
    keys = call.hidden @ signs / np.where(length, length, 1.0)
    for token, selected in enumerate(call.experts):
        assert is_legal(selected, choice[token], keys[token], **setting), (site.path, token, selected, choice[token])
    shared = getattr(call.router, "n_shared_experts", 0)
    outside = call.hidden @ call.router.weight.detach().double().numpy()[-shared:].T if shared else None
    paid = weights(rule, call.logits, call.experts, call.router, outside)
    np.testing.assert_allclose(call.weights, paid, rtol=4 * rounding, atol=rounding, err_msg=site.path)


@pytest.mark.parametrize("dtype", LOWER, ids=str)
@pytest.mark.parametrize("name", RUN)
def test_keyed_and_replayed_every_family_runs_the_prescribed_experts(name, dtype):
    """Found, proven and attached inside autocast or outside; replayed with the same inputs, the routers see the same
    bits."""
    model = build(name)
    sites = prepared(name).routers
    for number, setting in enumerate(SETTINGS):
        given = prepared(name) if number else model
        lower, around = torch.autocast("cpu", dtype), torch.autocast("cpu", dtype, enabled=number != 1)
        with around, watermark(given, KEY, **setting), lower, ranked() as seen, calls_of(model, sites) as calls:
            output = run(model, name, number)
        assert [site.path for site, _ in seen] == [call.site.path for call in calls]
        for call, (_, scores) in zip(calls, seen, strict=True):
            check(call, scores, setting, ROUNDING[dtype])
        assert torch.equal(replayed(model, name, number, calls, seen, dtype), output)


def replayed(model, name, number, calls, seen, dtype):
    """The model's output when the experts of ``calls`` are forced; the routers then rank what they ranked."""
    shown = []
    routings = []
    for call in calls:
        experts = torch.from_numpy(call.experts)
        none = torch.zeros(len(experts), dtype=torch.bool)
        routings.append(Forced(call.site, experts, none, lambda choice, hidden: shown.append((choice, hidden))))
    with attached(model, [call.site for call in calls], routings, replay=True), torch.autocast("cpu", dtype):
        output = run(model, name, number)
    for call, (site, scores), (choice, hidden) in zip(calls, seen, shown, strict=True):
        with np.errstate(divide="ignore"):
            expected = np.log(scores) if site.ranks == "probabilities" else scores
        np.testing.assert_allclose(choice.detach().double().numpy(), expected, rtol=1e-6, atol=1e-6)
        assert np.array_equal(hidden.detach().double().numpy(), call.hidden)
    return output


@pytest.mark.parametrize("name", HOT)
@settings(max_examples=12)
@given(
    setting=st.builds(
        Setting,
        epsilon=st.sampled_from([0.0, 0.3, math.inf]),
        zone=st.sampled_from(["max", "boundary"]),
        strength=st.sampled_from([1.0, math.inf]),
    ),
    dtype=st.sampled_from(LOWER),
    lowered=st.booleans(),
    shape=st.sampled_from([(1, 1), (1, 7), (3, 5)]),
    seed=st.integers(0, 999),
)
def test_the_fused_router_is_the_general_engine_bit_for_bit(name, setting, dtype, lowered, shape, seed):
    router, attachment, ran = first_attachment(build(name), setting)
    assert attachment.fused.modes == (None, torch.bfloat16, torch.float16)
    hidden = torch.randn(*shape, attachment.site.hidden_size, generator=torch.Generator().manual_seed(seed))
    hidden = hidden.to(dtype) if lowered else hidden
    with torch.autocast("cpu", dtype), torch.no_grad():
        outputs = [proof.answered(router, replace(attachment, fused=f), hidden) for f in (attachment.fused, None)]
    assert proof.same_outputs(*outputs)
    assert torch.equal(*ran[-2:])


def test_a_fused_forward_serves_only_the_autocast_it_is_proven_for(monkeypatch):
    """A family that computes otherwise under one autocast: there its own forward runs."""
    router_class = type(build("mixtral").model.layers[0].mlp.gate)
    own = router_class.forward

    def changed(self, states):
        logits, weights, experts = own(self, states)
        return logits, weights * (1 + (logits.dtype == torch.bfloat16)), experts

    monkeypatch.setattr(router_class, "forward", changed)
    router, attachment, _ = first_attachment(build("mixtral"), Setting(0.0, "max"))
    assert attachment.fused.modes == (None, torch.float16)
    states = torch.randn(2, 3, attachment.site.hidden_size)
    for dtype in LOWER:
        with torch.autocast("cpu", dtype), torch.no_grad():
            assert proof.same_outputs(proof.answered(router, attachment, states), router(states))


@pytest.mark.parametrize("name", ["deepseek_v2", "mixtral", "switch_transformers", "deepseek_v3", "phimoe"])
@pytest.mark.parametrize("dtype", LOWER, ids=str)
def test_gradients_do_not_depend_on_where_attaching_met_autocast(name, dtype):
    """Proofs leave nothing in autocast's cache of lowered weights, which knows neither dtype nor gradients."""
    model, gradients = make(name), []
    for inside in (False, True):
        model.zero_grad()
        around, lower = torch.autocast("cpu", dtype, enabled=inside), torch.autocast("cpu", dtype)
        inputs = {"input_ids": torch.tensor([[5, 9, 14, 20]])}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with around, watermark(model, KEY, epsilon=0.5), lower:
            model(**inputs).logits.float().square().sum().backward()
        gradients.append({path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None})
    routers = [path for path in gradients[0] if path.startswith(tuple(site.path for site in prepared(name).routers))]
    assert routers
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][path], gradients[1][path]) for path in gradients[0])


def test_autocast_may_be_entered_left_and_nested_within_a_block():
    model = build("qwen3_moe")
    with watermark(model, KEY, **EVERYTHING):
        plain = run(model, "qwen3_moe")
        with torch.autocast("cpu", torch.bfloat16):
            lowered = run(model, "qwen3_moe")
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(run(model, "qwen3_moe"), plain)
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                    assert torch.equal(run(model, "qwen3_moe"), lowered)
            with torch.autocast("cuda", enabled=False):  # another device's
                assert torch.equal(run(model, "qwen3_moe"), lowered)
        assert torch.equal(run(model, "qwen3_moe"), plain)
    assert not torch.equal(plain, lowered)
    with torch.autocast("cpu", torch.bfloat16), record(model):
        recorded = run(model, "qwen3_moe")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(model, "qwen3_moe"), recorded)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss", "zaya", "switch_transformers"])
def test_discovery_is_the_same_under_autocast(name):
    found = discover(build(name))
    for dtype in LOWER:
        with torch.autocast("cpu", dtype):
            assert discover(build(name)) == found
