"""Keyed routers on the card: the kernels by the specification, and the same selections as on the CPU."""

import pytest
import torch
from small_models import random_deepseek

from okr.loaders.deepseek import DeepseekConfig
from okr.routing import Setting, accelerated
from okr.spec.adapters import load
from okr.spec.profiles import Profile
from okr.spec.registry import load as clauses
from okr.spec.runner import run_clause, smoke
from okr.spec.subject import Subject
from tests.gpu import bodies

SETTINGS = [Setting(2.0, "max"), Setting(0.5, "boundary"), Setting(1.0, "boundary", 1.0)]


def test_the_kernels_compiled_for_this_card_keep_the_clauses_of_routing(needs):
    """Four cases a check: they make some ninety kernels, and each takes a part of a second to compile. ``okr conform
    triton`` looks harder."""
    needs(1)
    subject = Subject(load("triton"))
    assert subject.implementation.device == "cuda"
    smoke(subject)
    profile = Profile("card", 4, shrink=False)
    results = [run_clause(subject, c, profile) for c in clauses().values() if c.level == "routing"]
    failed = {r.clause.id: r.note or r.failure for r in results if r.verdict not in ("pass", "not applicable")}
    assert failed == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_are_in_use_on_this_card(needs, dtype):
    card = needs(1)
    _, _, attachment = bodies.attached_router(random_deepseek().to(card, dtype), Setting(2.0, "max"), [])
    capable = torch.cuda.get_device_capability(0) >= accelerated.OLDEST
    assert (attachment.routing.card is not None) == capable


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_card_and_cpu_select_legally_and_alike(needs, setting, dtype):
    """A router of the 16B shape: every selection is legal for its own device's scores, and the two differ only where
    the products of the two devices round across an edge."""
    card = needs(2)
    shape = {"hidden_size": 2048, "num_attention_heads": 16, "n_routed_experts": 64, "num_experts_per_tok": 6}
    model = random_deepseek(**shape, num_hidden_layers=2, initializer_range=0.02).to(dtype)
    assert isinstance(model.config, DeepseekConfig)
    on_cpu, cpu_faults = bodies.judged_selections(model, "cpu", setting, 400)
    on_card, card_faults = bodies.judged_selections(model, card, setting, 400)
    assert cpu_faults == card_faults == []
    assert (on_cpu == on_card).all(-1).float().mean() >= 0.99
