"""What a live model goes through while its routers are keyed: copies, saves, hooks, compilation, threads, errors."""

import copy
import io
import math
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from okr import AlreadyAttached, Key, RouterNotFound, UnsupportedRouter, discover, watermark
from tests.unit.discovery.plain_models import Holder, Network, RankingGateBlock
from tests.unit.discovery.zoo import FAMILIES, OLDER, build, make, run

ROOT = Path(__file__).parents[5]
EVERYTHING = {"epsilon": math.inf, "zone": "boundary"}
FIRST, SECOND = Key(bytes(range(32))), Key(bytes(range(1, 33)))
REPRESENTATIVE = ["deepseek_v2", "deepseek_v3", "mixtral", "dbrx", "jetmoe", "phimoe", "llama4", "zaya", "hy_v3"]


def keyed(model, name, key=FIRST):
    with watermark(model, key, **EVERYTHING):
        return run(model, name)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_copy_made_while_attached_is_plain_and_has_weights_of_its_own(name):
    model = make(name)
    native = run(model, name)
    with watermark(model, FIRST, **EVERYTHING):
        twin = copy.deepcopy(model)
        assert torch.equal(run(twin, name), native)
        assert not torch.equal(run(model, name), native)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
    assert torch.equal(run(model, name), native)


def test_a_pickle_made_while_attached_is_plain():
    model = make("mixtral")
    native = run(model, "mixtral")
    with watermark(model, FIRST, **EVERYTHING):
        buffer = io.BytesIO()
        torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert type(loaded.model.layers[0].mlp.gate) is type(model.model.layers[0].mlp.gate)
    assert torch.equal(run(loaded, "mixtral"), native)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "dbrx"])
def test_what_is_saved_while_attached_loads_as_the_plain_model(name, tmp_path):
    model = make(name)
    native = run(model, name)
    names = set(model.state_dict())
    with watermark(model, FIRST, **EVERYTHING):
        assert set(model.state_dict()) == names
        model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    loaded.set_experts_implementation("eager")
    torch.testing.assert_close(run(loaded, name), native, rtol=0, atol=1e-6)
    torch.testing.assert_close(keyed(loaded, name), keyed(model, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["deepseek_v2", "mixtral", "afmoe"])
def test_a_model_dispatched_by_accelerate_is_keyed_like_a_plain_one(name):
    expected = keyed(build(name), name)
    for dispatch in (lambda m: dispatch_model(m, {"": "cpu"}, force_hooks=True), lambda m: cpu_offload(m, "cpu")):
        model = make(name)
        native = run(model, name)
        dispatch(model)
        assert torch.equal(keyed(model, name), expected)
        assert torch.equal(run(model, name), native)


COMPILED = """
import math
import torch
from okr import Key, discover, watermark
from tests.unit.discovery.zoo import make

for name in ("mixtral", "deepseek_v2", "deepseek_v3", "phimoe"):
    model = make(name)
    site = discover(model)[0]
    router = model.get_submodule(site.path)
    with watermark(model, Key(bytes(16)), epsilon=math.inf, zone="boundary"):
        compiled = torch.compile(router, backend="eager", fullgraph=True)
        for tokens in (5, 7, 5):
            hidden = torch.randn(tokens, site.hidden_size)
            assert all(map(torch.equal, compiled(hidden), router(hidden))), name
"""


def test_compiled_routers_are_keyed_without_graph_breaks(warm):
    """In a process of its own: the run-time shape checks of the test run cannot be compiled."""
    done = subprocess.run([warm / "python", "-c", COMPILED], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_gradients_reach_the_router_through_the_keyed_choice(name):
    model = make(name)
    site = next(site for site in discover(model) if site.keyable)
    with watermark(model, FIRST, **EVERYTHING), torch.enable_grad():
        model(**FAMILIES[name].inputs()).logits.float().pow(2).sum().backward()
    gradients = [parameter.grad for parameter in model.get_submodule(site.path).parameters()]
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize(
    "name", ["mixtral", "qwen2_moe", "olmoe", "deepseek_v2", "phimoe", "gpt_oss", "switch_transformers"]
)
def test_router_logits_are_recorded_as_without_a_key(name):
    """As many as there are routers, and those of the first router, which sees the same states, bit for bit."""

    def logits(model):
        with torch.no_grad():
            output = model(**FAMILIES[name].inputs(), output_router_logits=True)
        recorded = getattr(output, "router_logits", None) or output.encoder_router_logits
        return [part for part in recorded if isinstance(part, torch.Tensor)]

    model = build(name)
    try:
        native = logits(model)
    except (AttributeError, ValueError):
        if OLDER and name in ("deepseek_v2", "switch_transformers"):
            pytest.skip("older releases of transformers record no router logits of this family, key or no key")
        raise
    with watermark(model, FIRST, **EVERYTHING):
        under_key = logits(model)
    assert len(under_key) == len(native) > 0
    assert torch.equal(under_key[0], native[0])
    assert not torch.equal(under_key[-1], native[-1])


def test_attaching_twice_is_refused_and_leaves_the_first_in_place():
    model = make("mixtral")
    native = run(model, "mixtral")
    with watermark(model, FIRST, **EVERYTHING):
        first = run(model, "mixtral")
        with pytest.raises(AlreadyAttached), watermark(model, SECOND, **EVERYTHING):
            pass
        assert torch.equal(run(model, "mixtral"), first)
    assert torch.equal(run(model, "mixtral"), native)


def test_two_models_hold_different_keys_at_once():
    one, two = make("mixtral"), make("mixtral")
    with watermark(one, FIRST, **EVERYTHING), watermark(two, SECOND, **EVERYTHING):
        outputs = run(one, "mixtral"), run(two, "mixtral")
    assert torch.equal(outputs[0], keyed(one, "mixtral", FIRST))
    assert torch.equal(outputs[1], keyed(one, "mixtral", SECOND))
    assert not torch.equal(*outputs)


def test_threads_do_not_disturb_each_other():
    names = ["mixtral", "deepseek_v3", "phimoe"]
    expected = {name: keyed(build(name), name) for name in names}
    models = {name: make(name) for name in names}
    wrong: list[str] = []

    def work(name):
        for _ in range(5):
            if not torch.equal(run(models[name], name), expected[name]):
                wrong.append(name)

    with (
        watermark(models["mixtral"], FIRST, **EVERYTHING),
        watermark(models["deepseek_v3"], FIRST, **EVERYTHING),
        watermark(models["phimoe"], FIRST, **EVERYTHING),
    ):
        threads = [threading.Thread(target=work, args=(name,)) for name in names * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_an_exception_inside_leaves_the_model_as_it_was(name):
    model = make(name)
    classes = {path: type(module) for path, module in model.named_modules()}
    with pytest.raises(KeyboardInterrupt), watermark(model, FIRST, **EVERYTHING):
        raise KeyboardInterrupt
    assert {path: type(module) for path, module in model.named_modules()} == classes
    assert not any("_okr_attachment" in module.__dict__ or module._forward_hooks for module in model.modules())


def test_a_dense_model_is_refused():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    with (
        pytest.raises(RouterNotFound, match="未找到任何gate层"),
        watermark(LlamaForCausalLM(config), FIRST, epsilon=1.0),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nllb_moe", "only experts 0 and 1"), ("doge", "mix the tokens"), ("vitpose_backbone", "its caller says")],
)
def test_what_cannot_be_keyed_is_refused_with_the_reason(name, reason):
    with pytest.raises(RouterNotFound, match=reason), watermark(build(name), FIRST, epsilon=1.0):
        pass


def test_a_hash_routed_layer_stays_native_and_is_reported():
    model = build("deepseek_v4")
    hashed = [site for site in discover(model) if not site.keyable]
    assert [(site.layer, site.router_class) for site in hashed] == [(0, "DeepseekV4HashRouter")]
    assert "token ids" in hashed[0].reason
    with watermark(model, FIRST, **EVERYTHING) as wm:
        assert [site.layer for site in wm.sites] == [1, 2]
        run(model, "deepseek_v4")


def test_a_kernel_that_bypasses_the_routers_is_noticed():
    """As MXFP4 and MegaBlocks kernels do: the block reads the router's weight and never calls the router."""

    class Bypassing(RankingGateBlock):
        def forward(self, hidden):
            scores = functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.gate.weight).softmax(-1)
            return hidden * scores.max()

    model = Network(Holder("mlp", Bypassing())).eval()
    with (
        pytest.raises(UnsupportedRouter, match="ran none of its keyed routers"),
        watermark(model, FIRST, **EVERYTHING),
    ):
        model(torch.arange(4)[None])
    model(torch.arange(4)[None])


def test_the_mxfp4_block_of_gpt_oss_is_refused_by_name():
    class Mxfp4GptOssMLP(RankingGateBlock):
        pass

    model = Network(Holder("mlp", Mxfp4GptOssMLP("router")))
    with pytest.raises(RouterNotFound, match="MXFP4"), watermark(model, FIRST, epsilon=1.0):
        pass


def test_a_forward_that_ranks_otherwise_in_training_is_noticed():
    """Phi's router samples its experts in training: other calls than those that were proven."""
    model = make("phimoe")
    with watermark(model, FIRST, **EVERYTHING):
        run(model, "phimoe")
        model.train()
        with pytest.raises(UnsupportedRouter, match="does not rank as it was proven to"):
            run(model, "phimoe")


def test_a_router_whose_top_k_was_swapped_while_attached_is_noticed():
    model = Network(Holder("mlp", RankingGateBlock())).eval()
    gate = type(model.layers[0].mlp.gate)

    def ranked_by_sorting(self, hidden):
        scores = functional.linear(hidden.view(-1, hidden.shape[-1]), self.weight).softmax(-1)
        order = scores.argsort(-1, descending=True)[:, : self.top_k]
        return order, scores.gather(-1, order), None

    native = gate.forward
    with watermark(model, FIRST, **EVERYTHING):
        model(torch.arange(4)[None])
        gate.forward = ranked_by_sorting
        try:
            with pytest.raises(UnsupportedRouter, match="ranked experts by no call"):
                model(torch.arange(4)[None])
        finally:
            gate.forward = native


def test_deepseeks_remote_code_structure_is_keyed_end_to_end():
    """A gate that returns index, weight and loss; experts as modules of their own; no configuration."""
    model = Network(*(Holder("mlp", RankingGateBlock()) for _ in range(2))).eval()
    ids = torch.arange(24).view(2, 12)
    native = model(ids)
    rows: dict[int, int] = {}
    experts = model.layers[0].mlp.experts
    handles = [
        expert.register_forward_hook(lambda m, a, o, n=number: rows.__setitem__(n, len(a[0])))
        for number, expert in enumerate(experts)
    ]
    chosen = []
    with watermark(model, FIRST, **EVERYTHING):
        handles.append(model.layers[0].mlp.gate.register_forward_hook(lambda m, a, o: chosen.append(o[0])))
        output = model(ids)
    for handle in handles:
        handle.remove()
    assert not torch.equal(output, native)
    counts = chosen[0].flatten().bincount(minlength=len(experts)).tolist()
    assert [rows.get(number, 0) for number in range(len(experts))] == counts
    with watermark(model, FIRST, epsilon=0.0):
        assert torch.equal(model(ids), native)
    assert torch.equal(model(ids), native)
