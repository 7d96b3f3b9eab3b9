"""Keyed routers on the Triton kernels (interpreted, where there is no card) against the same routers on torch."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from okr import Key, discover, record, verify, watermark
from okr.engines.transformers import proof
from okr.engines.transformers.attaching import attachment_of
from okr.engines.transformers.guard import Guard
from okr.engines.transformers.routings import Keyed
from okr.routing import Setting, accelerated
from tests.unit.discovery.zoo import build, make, run

pytest.importorskip("triton", reason="Triton has wheels for Linux on x86-64 only; the kernels are not used without it")
from okr.routing import triton_kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAMILIES = ["deepseek_v2", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "switch_transformers"]
KEY = Key(bytes(range(32)))
INF = math.inf
PROMPT = torch.tensor([[5, 9, 14, 20, 33, 41], [7, 8, 61, 44, 3, 90]])
SETTINGS = st.builds(
    Setting,
    epsilon=st.sampled_from([0.3, 2.0, INF]),
    zone=st.sampled_from(["max", "boundary"]),
    strength=st.sampled_from([1.0, INF]),
)


@pytest.fixture
def kernels(monkeypatch):
    """Kernels wherever a model runs, and what they were asked for; proofs are made afresh."""
    asked = {"products": 0, "joint": 0, "choose": 0}

    def products(hidden, signs, weight=None, *rest):
        asked["products" if weight is None else "joint"] += 1
        return triton_kernels.products(hidden, signs, weight, *rest)

    def choose(*scores, **rule):
        asked["choose"] += 1
        return triton_kernels.choose(*scores, **rule)

    served = SimpleNamespace(products=products, choose=choose, MOST_EXPERTS=triton_kernels.MOST_EXPERTS)
    monkeypatch.setattr(accelerated, "kernels_on", lambda device: served)
    monkeypatch.setattr(Keyed, "prepare", prepare_anywhere)
    for known in (accelerated._proven, accelerated._joint_proven):
        known.cache_clear()
    yield asked
    for known in (accelerated._proven, accelerated._joint_proven):
        known.cache_clear()


def prepare_anywhere(self, device, dtype):
    rule = accelerated.Rule(**self.rule, log=self.site.ranks == "probabilities")
    self.card = accelerated.accelerate(self.project.signs, rule, device, dtype)


def routed(name, setting, hidden, dtype):
    """(the router's output, the experts that ran, its routing) for ``hidden``, attached as the engine does it."""
    model = make(name).to(DEVICE, dtype)
    site = next(site for site in discover(model) if site.keyable)
    router, ran = model.get_submodule(site.path), []
    routing = Keyed(site, KEY, setting, lambda experts: ran.append(experts()))
    attachment = attachment_of(router, site, routing, proof.prove(router, site), Guard())
    with torch.no_grad():
        return proof.answered(router, attachment, hidden(site.hidden_size).to(DEVICE, dtype)), ran[-1], routing


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=3)
@given(setting=SETTINGS, dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 999))
def test_kernels_route_every_hot_family_as_torch_does(name, setting, dtype, seed):
    """13 tokens, scores of which within 1e-6 of an edge or of each other fall either way: a chance below 1e-4 in all
    examples together for one token, so below 1e-6 for two."""

    def hidden(size):
        return torch.randn(1, 13, size, generator=torch.Generator().manual_seed(seed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerated, "kernels_on", lambda device: None)
        expected, ran, plain = routed(name, setting, hidden, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerated, "kernels_on", lambda device: triton_kernels)
        patch.setattr(Keyed, "prepare", prepare_anywhere)
        output, kernel_ran, routing = routed(name, setting, hidden, dtype)
    assert plain.card is None
    assert routing.card is not None
    same = (ran == kernel_ran).all(-1)
    assert (~same).sum() <= 1
    for one, other in zip(expected, output, strict=True):
        assert one.dtype == other.dtype
        if same.all():
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=3)
@given(
    weights=st.sampled_from([torch.float32, torch.bfloat16]),
    states=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    lower=st.sampled_from([torch.bfloat16, torch.float16]),
    seed=st.integers(0, 999),
)
def test_kernels_route_as_torch_does_under_autocast(name, weights, states, lower, seed):
    """Whatever dtype the states come in: the kernels are proven for one. Tolerance as above: one token of 13."""
    model = make(name).to(DEVICE, weights)
    site = next(site for site in discover(model) if site.keyable)
    router, ran = model.get_submodule(site.path), []
    hidden = torch.randn(1, 13, site.hidden_size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, states)
    for served in (None, triton_kernels):
        with pytest.MonkeyPatch.context() as patch, torch.autocast(DEVICE, lower), torch.no_grad():
            patch.setattr(accelerated, "kernels_on", lambda device, served=served: served)
            patch.setattr(Keyed, "prepare", prepare_anywhere)
            routing = Keyed(site, KEY, Setting(INF, "boundary"), lambda experts: ran.append(experts()))
            attachment = attachment_of(router, site, routing, proof.prove(router, site), Guard())
            proof.answered(router, attachment, hidden)
    assert (routing.card is not None) == (served is not None)
    assert (ran[0] != ran[1]).any(-1).sum() <= 1


def test_a_proof_inside_autocast_is_the_proof_outside(kernels):
    rule = accelerated.Rule(top_k=2, epsilon=1.0, zone="max", strength=INF, log=False)
    with torch.autocast(DEVICE, torch.bfloat16):
        card = accelerated.accelerate(torch.ones(4, 8, dtype=torch.int8), rule, torch.device(DEVICE), torch.float32)
        states = torch.randn(3, 4, device=DEVICE)
        keys = card.key_scores(states.bfloat16())
    assert keys.dtype == torch.float32
    assert torch.equal(keys, card.key_scores(states.bfloat16().float()))


def test_a_keyed_model_runs_on_kernels_and_its_trace_verifies(kernels):
    model = build("deepseek_v2").to(DEVICE)
    prompt = PROMPT.to(DEVICE)
    with torch.no_grad():
        native = model(prompt).logits
    with watermark(model, KEY, epsilon=INF, zone="boundary") as wm:
        made = wm.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)
        assert kernels["choose"] > 0
        assert kernels["products"] > 0
    with record(model), torch.no_grad():
        assert torch.equal(model(prompt).logits, native)
    verdict = verify(model, made.traces[0], KEY)
    assert verdict.hit_rate == 1.0


def test_gradients_pass_a_keyed_router_on_kernels(kernels):
    """The chosen scores keep their gradient: the kernel's own copy of them has none."""
    model = build("mixtral").to(DEVICE)
    with watermark(model, KEY, epsilon=INF, zone="boundary"):
        model(PROMPT.to(DEVICE)).logits.square().sum().backward()
    assert kernels["choose"] > 0
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("gate.weight")]
    assert all(gate.grad is not None and gate.grad.abs().sum() > 0 for gate in gates)


def test_the_joint_product_is_used_only_where_it_keeps_every_bit(kernels, monkeypatch):
    model = build("qwen3_moe").to(DEVICE)
    exact = triton_kernels.products

    def library_order(hidden, signs, weight=None, dtype=torch.float32):
        keys, _ = exact(hidden, signs)
        return keys, None if weight is None else torch.nn.functional.linear(hidden.to(dtype), weight.to(dtype))

    monkeypatch.setattr(triton_kernels, "products", library_order)
    with watermark(model, KEY, epsilon=INF, zone="boundary"), torch.no_grad():
        proofs = kernels["joint"]
        first = run(model, "qwen3_moe")
        assert kernels["joint"] > proofs
        with torch.enable_grad():
            used = kernels["joint"]
            model(PROMPT.to(DEVICE))
            assert kernels["joint"] == used

    def another_order(*arguments):
        keys, logits = library_order(*arguments)
        return keys, None if logits is None else logits * (1 + 2**-20)

    accelerated._joint_proven.cache_clear()
    monkeypatch.setattr(triton_kernels, "products", another_order)
    with watermark(model, KEY, epsilon=INF, zone="boundary"), torch.no_grad():
        proofs = kernels["joint"]
        assert torch.equal(run(model, "qwen3_moe"), first)
        assert kernels["joint"] == proofs


@pytest.mark.parametrize("fault", ["raises", "scores", "selection"])
def test_kernels_that_fail_or_answer_wrongly_are_not_used_and_say_so(fault, kernels, monkeypatch, caplog):
    def wrong(*arguments, **rule):
        if fault == "raises":
            raise RuntimeError("no C compiler\nwas found")
        if fault == "scores":
            keys, logits = products(*arguments)
            return keys * 1.01, logits
        chosen, paid = choose(*arguments, **rule)
        return chosen.flip(-1), paid

    products, choose = triton_kernels.products, triton_kernels.choose
    monkeypatch.setattr(triton_kernels, "choose" if fault == "selection" else "products", wrong)
    model = build("mixtral").to(DEVICE)
    caplog.set_level("INFO", logger="okr")
    with watermark(model, KEY, epsilon=INF, zone="boundary"), torch.no_grad():
        before = dict(kernels)
        run(model, "mixtral")
        assert kernels == before
    assert sum("the Triton kernels are not used" in message for message in caplog.messages) == 1


def test_what_the_kernels_do_not_serve_is_left_to_torch(kernels, monkeypatch):
    rule = accelerated.Rule(top_k=2, epsilon=1.0, zone="max", strength=INF, log=True)
    many = torch.ones(4, triton_kernels.MOST_EXPERTS + 1, dtype=torch.int8)
    device = torch.device(DEVICE)
    assert accelerated.accelerate(many, rule, device, torch.float32) is None
    card = accelerated.accelerate(torch.ones(4, 8, dtype=torch.int8), rule, device, torch.float32)
    assert card.serves(torch.zeros(1, 8, device=DEVICE))
    assert not card.serves(torch.zeros(1, 8, device=DEVICE, dtype=torch.float64))
    assert not card.serves(torch.zeros(1, 8, device="meta"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not card.serves(torch.zeros(1, 8, device=DEVICE))


def test_there_are_no_kernels_off_the_card_without_triton_or_on_an_old_card(monkeypatch):
    assert accelerated.kernels_on(torch.device("cpu")) is None
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert accelerated.kernels_on(card) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert accelerated.kernels_on(card) is triton_kernels
    monkeypatch.setattr(accelerated.importlib.util, "find_spec", lambda name: None)
    assert accelerated.kernels_on(card) is None
