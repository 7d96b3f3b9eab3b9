"""Keyed routing in every family: the experts that run are those the semantics prescribe, paid by the family's rule."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr import Key, prepare, watermark
from tests.unit.discovery.zoo import FAMILIES, VARIANTS, build, run
from tests.unit.engines.transformers.families.observed import calls_of, executed
from tests.unit.engines.transformers.families.oracle import RULES, choice_scores, is_legal, weights

ALL = {**FAMILIES, **VARIANTS}
KEYED = [name for name in ALL if name not in ("doge", "nllb_moe", "vitpose_backbone")]
EVERYTHING = {"epsilon": math.inf, "zone": "boundary"}
FIRST, SECOND = Key(bytes(range(32))), Key(bytes(range(1, 33)))

SETTINGS = st.fixed_dictionaries(
    {
        "epsilon": st.sampled_from([0.02, 0.3, 1.0, math.inf]),
        "zone": st.sampled_from(["max", "boundary"]),
        "strength": st.sampled_from([0.1, 1.0, math.inf]),
    }
)


@cache
def prepared(name):
    """The family's tiny model, whose routers are found and proven once. Shared within a session."""
    return prepare(build(name))


def groups_of(router):
    count, kept = getattr(router, "num_group", None), getattr(router, "topk_group", None)
    if count is None or getattr(router, "topk_method", "group_limited_greedy") != "group_limited_greedy":
        return None
    return count, kept


def check(call, key, setting):
    """Every token of one router call runs a legal selection, and pays what the family pays it."""
    site, rule = call.site, RULES[call.site.router_class]
    choice = choice_scores(rule, call.logits, call.bias, groups_of(call.router))
    signs = key.projection(
        stack=site.stack, layer=site.layer, hidden_size=site.hidden_size, num_experts=site.num_experts
    )
    length = np.linalg.norm(call.hidden, axis=-1, keepdims=True)
    keys = call.hidden @ signs / np.where(length, length, 1.0)  # a state of zeros, as padding may have, has scores 0
    for token, selected in enumerate(call.experts):
        assert is_legal(selected, choice[token], keys[token], **setting), (site.path, token, selected, choice[token])
    shared = getattr(call.router, "n_shared_experts", 0)
    outside = call.hidden @ call.router.weight.detach().double().numpy()[-shared:].T if shared else None
    paid = weights(rule, call.logits, call.experts, call.router, outside)
    np.testing.assert_allclose(call.weights, paid, rtol=2e-4, atol=1e-6, err_msg=site.path)


@pytest.mark.parametrize("name", KEYED)
@settings(max_examples=4)
@given(setting=SETTINGS, secret=st.binary(min_size=16, max_size=16), seed=st.integers(0, 99))
def test_the_prescribed_experts_run_and_are_paid_by_the_familys_own_rule(name, setting, secret, seed):
    model, key = build(name), Key(secret)
    sites = prepared(name).routers
    with watermark(prepared(name), key, **setting), calls_of(model, sites) as calls:
        run(model, name, seed)
    assert {call.site.path for call in calls} == {site.path for site in sites}
    for call in calls:
        check(call, key, setting)


@pytest.mark.parametrize("name", KEYED)
def test_the_chosen_experts_are_the_ones_that_compute(name):
    """One token, with gradients: the experts whose weights got a gradient are those that the router chose."""
    model = build(name)
    sites = prepared(name).routers
    model.zero_grad()
    with watermark(prepared(name), FIRST, **EVERYTHING), calls_of(model, sites) as calls:
        one_token_backward(model, name)
    ran = executed(model, sites)
    model.zero_grad()
    chosen = {}
    for call in calls:
        chosen.setdefault(call.site.path, set()).update(call.experts.flatten().tolist())
    assert chosen
    for call in calls:
        without = (
            {8} if call.site.router_class == "ZayaRouter" else set(range(8, 99))
        )  # skip and zero experts: no weights
        assert ran[call.site.path] == chosen[call.site.path] - without


def one_token_backward(model, name):
    inputs = ALL[name].inputs()
    cut = {
        key: value[:1, :1] if key != "pixel_values" and value.dim() > 1 and "grid" not in key else value
        for key, value in inputs.items()
    }
    output = model(**cut)
    value = output.logits if getattr(output, "logits", None) is not None else output.last_hidden_state
    (value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum().backward()


@pytest.mark.parametrize("name", KEYED)
def test_nothing_changes_at_epsilon_zero_and_after_detaching_and_keys_matter(name):
    model = build(name)
    native = run(model, name)
    for zone in ("max", "boundary"):
        with watermark(prepared(name), FIRST, epsilon=0.0, zone=zone):
            assert torch.equal(run(model, name), native)
    with watermark(prepared(name), FIRST, **EVERYTHING):
        first = run(model, name)
    with watermark(prepared(name), SECOND, **EVERYTHING):
        second = run(model, name)
    assert torch.equal(run(model, name), native)
    assert not torch.equal(first, native)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["deepseek_v2:groups", "deepseek_v3", "mistral4", "axk2"])
def test_barred_experts_are_in_no_zone_and_never_run(name):
    model = build(name)
    sites = prepared(name).routers
    with watermark(prepared(name), FIRST, epsilon=math.inf, zone="max"), calls_of(model, sites) as calls:
        run(model, name)
    for call in calls:
        choice = choice_scores(RULES[call.site.router_class], call.logits, call.bias, groups_of(call.router))
        assert np.isneginf(choice).any()
        assert np.isfinite(np.take_along_axis(choice, call.experts, -1)).all()
        assert (call.weights > 0).all()
