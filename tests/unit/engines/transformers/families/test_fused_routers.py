"""Fused routers against the general engine, bit for bit, and when the general engine serves instead."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr import Key, discover, record, watermark
from okr.engines.transformers import fused, proof
from okr.engines.transformers.attaching import attachment_of
from okr.engines.transformers.guard import Guard
from okr.engines.transformers.routings import Keyed
from okr.routing import Setting
from tests.unit.discovery.zoo import build, make, run
from tests.unit.engines.transformers.families.observed import calls_of

FAMILIES = ["deepseek_v2", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "switch_transformers"]
EVERYTHING = {"epsilon": math.inf, "zone": "boundary"}
KEY = Key(bytes(range(32)))
SETTINGS = st.builds(
    Setting,
    epsilon=st.sampled_from([0.0, 0.02, 0.3, 2.0, math.inf]),
    zone=st.sampled_from(["max", "boundary"]),
    strength=st.sampled_from([0.1, 1.0, math.inf]),
)


def first_attachment(model, setting):
    """(router, its attachment as the engine makes it, list of the experts that ran) of the model's first site."""
    site = next(site for site in discover(model) if site.keyable)
    router, ran = model.get_submodule(site.path), []
    routing = Keyed(site, KEY, setting, lambda experts: ran.append(experts()))
    return (
        router,
        attachment_of(router, site, routing, proof.prove(router, site), Guard()),
        ran,
    )


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=20)
@given(
    setting=SETTINGS,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    shape=st.sampled_from([(1, 1), (1, 7), (3, 5), (2, 100)]),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    seed=st.integers(0, 999),
)
def test_the_fused_router_is_the_general_engine_bit_for_bit(name, setting, dtype, shape, scale, seed):
    model = make(name).to(dtype)
    router, attachment, ran = first_attachment(model, setting)
    assert attachment.fused is not None
    if name == "switch_transformers":
        router.expert_capacity = 2  # few enough that tokens are dropped
    hidden = torch.randn(*shape, attachment.site.hidden_size, generator=torch.Generator().manual_seed(seed))
    hidden = (hidden * scale).to(dtype)
    outputs = [proof.answered(router, replace(attachment, fused=f), hidden) for f in (attachment.fused, None)]
    assert proof.same_outputs(*outputs)
    assert torch.equal(*ran[-2:])


@settings(max_examples=40)
@given(setting=SETTINGS, scale=st.sampled_from([0.0, 1e-3, 1.0, 50.0]), seed=st.integers(0, 999))
def test_tokens_are_routed_alone_as_together(setting, scale, seed):
    """One token takes a way of its own, which rounds differently: scores within 1e-6 of each other may fall either way.
    A token meets that with a chance below 1e-5, so two of nine do in any of 40 examples with less than 1e-6."""
    model = build("deepseek_v2")
    router, attachment, ran = first_attachment(model, setting)
    hidden = torch.randn(1, 9, attachment.site.hidden_size, generator=torch.Generator().manual_seed(seed)) * scale
    for states in (hidden, *hidden.split(1, dim=1)):
        proof.answered(router, attachment, states)
    together, alone = ran[-10], torch.cat(ran[-9:])
    assert (together != alone).any(-1).sum() <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_and_training_are_the_same_through_both(name):
    model = make(name).train()
    router, attachment, _ = first_attachment(model, Setting(0.5, "boundary", 1.0))
    hidden = torch.randn(2, 5, attachment.site.hidden_size)
    gradients = []
    for served in (attachment.fused, None):
        torch.manual_seed(1)  # Switch jitters its input in training
        states = hidden.clone().requires_grad_()
        router.zero_grad()
        output = proof.answered(router, replace(attachment, fused=served), states)
        sum((part * part).sum() for part in output if part.is_floating_point()).backward()
        gradients.append([parameter.grad for parameter in router.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_router_of_a_hot_family_is_fused_when_keyed_and_when_recorded(name, monkeypatch):
    model = build(name)
    sites = [site for site in discover(model) if site.keyable]
    proofs, prove = [], proof.prove
    monkeypatch.setattr(proof, "prove", lambda *given: proofs.append(prove(*given)) or proofs[-1])
    native = run(model, name)
    with record(model):
        assert torch.equal(run(model, name), native)
    with watermark(model, KEY, **EVERYTHING), calls_of(model, sites) as calls:
        keyed = run(model, name)
    assert len(proofs) == 2 * len(sites)
    assert all(one.fused is not None for one in proofs)
    assert {call.site.path for call in calls} == {site.path for site in sites}
    monkeypatch.setattr(proof, "fused_for", lambda module: [])
    with watermark(model, KEY, **EVERYTHING):
        assert torch.equal(run(model, name), keyed)


def test_group_limits_subclasses_and_other_families_are_left_to_the_general_engine():
    for name in ("deepseek_v2:groups", "deepseek_v3", "phimoe", "granitemoe"):
        assert first_attachment(build(name), Setting(1.0, "max"))[1].fused is None
    model = make("mixtral")
    for layer in model.model.layers:
        layer.mlp.gate.__class__ = type("Own", (type(layer.mlp.gate),), {})
    assert first_attachment(model, Setting(1.0, "max"))[1].fused is None


def test_a_fused_forward_that_differs_from_the_familys_own_is_not_used(monkeypatch, caplog):
    """As a later transformers might: the family pays its experts twice what the written-out forward pays."""
    model = make("mixtral")
    router_class = type(model.model.layers[0].mlp.gate)
    own = router_class.forward

    def changed(self, hidden_states):
        logits, weights, experts = own(self, hidden_states)
        return logits, weights * 2, experts

    monkeypatch.setattr(router_class, "forward", changed)
    fused.tell_slow.cache_clear()
    assert first_attachment(model, Setting(1.0, "max"))[1].fused is None
    assert first_attachment(model, Setting(1.0, "max"))[1].fused is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("MixtralTopKRouter: ")
    assert "slower" in line


def each_token_alone(self, hidden_states):
    """Switch's router as transformers 5.17 computes it: its mask comes second, and counts no sequence."""
    probabilities = self.classifier(hidden_states.to(self.dtype)).softmax(-1).to(hidden_states.dtype)
    largest, expert = torch.max(probabilities, dim=-1, keepdim=True)
    mask = torch.nn.functional.one_hot(expert, num_classes=self.num_experts)
    mask = mask * (mask.cumsum(-2) <= self.expert_capacity)
    return torch.max(probabilities, dim=-1).values.unsqueeze(-1), mask, largest


@pytest.mark.parametrize("shape", [(1, 1), (7,), (2, 5)])
def test_the_switch_of_an_older_release_is_fused_too(shape, monkeypatch):
    model = make("switch_transformers")
    monkeypatch.setattr(type(model.encoder.block[1].layer[1].mlp.router), "forward", each_token_alone)
    router, attachment, ran = first_attachment(model, Setting(0.5, "boundary"))
    assert attachment.fused is not None
    hidden = torch.randn(*shape, attachment.site.hidden_size)
    by_hand = proof.answered(router, attachment, hidden)
    general = proof.answered(router, replace(attachment, fused=None), hidden)
    assert all(map(torch.equal, by_hand, general))
    assert torch.equal(ran[-1], ran[-2])
    assert torch.equal(ran[-1].flatten(), by_hand[1].flatten(0, -2).argmax(-1))


def test_a_forward_replaced_while_attached_is_run_not_the_fused_one(monkeypatch):
    model = make("mixtral")
    router_class = type(model.model.layers[0].mlp.gate)
    own = router_class.forward
    with watermark(model, KEY, **EVERYTHING):
        first = run(model, "mixtral")
        monkeypatch.setattr(router_class, "forward", lambda self, states: own(self, -states))
        assert not torch.equal(run(model, "mixtral"), first)
