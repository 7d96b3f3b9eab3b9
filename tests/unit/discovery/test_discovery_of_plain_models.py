"""Discovery on models that are not from transformers: evidence and proof, never a name alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from okr import Key, watermark
from okr.discovery import discover, prove, search
from okr.errors import RouterNotFound
from tests.unit.discovery.plain_models import EXPERTS, HIDDEN, TOP_K, WAYS, Expert, Holder, InlineBlock, Network
from tests.unit.discovery.plain_models import RankingGateBlock as Block

IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("way", WAYS)
def test_each_of_the_guides_ways_is_found_proven_and_keyed(way):
    layer, path = WAYS[way]
    model = Network(layer(), layer()).eval()
    sites = discover(model)
    assert [site.path for site in sites] == [path.format(i=0), path.format(i=1)]
    assert {(s.num_experts, s.top_k, s.hidden_size, s.unit, s.keyable) for s in sites} == {
        (EXPERTS, TOP_K, HIDDEN, "logit", True)
    }
    assert prove(model, input_ids=IDS) == sites
    native = model(IDS)
    with watermark(model, Key(bytes(16)), epsilon=float("inf"), zone="boundary"):
        assert not torch.equal(model(IDS), native)
    assert torch.equal(model(IDS), native)


def test_a_gate_proj_is_never_a_router():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Expert()

        def forward(self, hidden):
            return hidden + self.mlp(hidden)

    with pytest.raises(RouterNotFound) as caught:
        discover(Network(Dense(), Dense()))
    assert any("gate_proj" in line for line in caught.value.log)
    model = Network(Holder("mlp", Block()))
    assert [site.path for site in discover(model)] == ["layers.0.mlp.gate"]


def test_a_name_alone_is_no_router():
    class Misleading(nn.Module):
        def __init__(self):
            super().__init__()
            self.router = nn.Linear(HIDDEN, 4)
            self.gate = nn.Linear(HIDDEN, HIDDEN)

        def forward(self, hidden):
            return hidden * torch.sigmoid(self.gate(hidden)) + self.router(hidden).sum(-1, keepdim=True)

    with pytest.raises(RouterNotFound):
        discover(Network(Misleading()))


def test_the_log_says_of_every_layer_what_was_looked_at():
    model = Network(Holder("mlp", Expert()), Holder("mlp", Block()), Holder("mlp", InlineBlock()))
    log = search(model).log
    assert any(line.startswith("layers.0.mlp.gate_proj (Linear): not a router") for line in log)
    assert any(line.startswith("layers.1.mlp.gate (TopGate): router") and "keeps 2 of 6" in line for line in log)
    assert any(line.startswith("layers.2.mlp.gate (Linear)") and "the block around it does" in line for line in log)


class _Kernel(torch.autograd.Function):
    """Stands for a kernel: it ranks where no torch call can be seen."""

    @staticmethod
    def forward(ctx, scores):
        order = scores.detach().numpy().argsort(-1)[:, ::-1][:, :TOP_K].copy()
        return torch.from_numpy(order)


def test_a_top_k_inside_a_kernel_is_reported_not_ignored():
    class KernelGate(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts, self.top_k = EXPERTS, TOP_K
            self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN))

        def forward(self, hidden):
            scores = functional.linear(hidden.reshape(-1, HIDDEN), self.weight).softmax(-1)
            indices = _Kernel.apply(scores)
            return indices, scores.gather(-1, indices), None

    model = Network(Holder("mlp", Block())).eval()
    model.layers[0].mlp.gate = KernelGate()
    (site,) = discover(model)
    assert not site.keyable
    assert "rank" in site.reason or "failed" in site.reason
    with pytest.raises(RouterNotFound, match="can be keyed"), watermark(model, Key(bytes(16)), epsilon=1.0):
        pass


def test_a_block_that_ignores_its_gate_is_unmasked_by_the_trace():
    class Ignoring(Block):
        def forward(self, hidden):
            indices, weights, _ = self.gate(hidden)
            from tests.unit.discovery.plain_models import mix

            return mix(self.experts, hidden, (indices + 1) % EXPERTS, weights)

    model = Network(Holder("mlp", Ignoring()))
    assert discover(model)[0].keyable
    (site,) = prove(model, input_ids=IDS)
    assert not site.keyable
    assert "did not reach" in site.reason


def test_a_forward_replaced_on_the_instance_is_reported():
    model = Network(Holder("mlp", Block()))
    block = model.layers[0].mlp
    block.forward = lambda hidden: hidden
    (site,) = discover(model)
    assert not site.keyable
    assert "replaced" in site.reason


def test_a_shared_router_is_one_site():
    layer = Holder("mlp", Block())
    model = Network(layer, layer).eval()
    assert [site.path for site in discover(model)] == ["layers.0.mlp.gate"]
    assert prove(model, input_ids=IDS) == discover(model)
    native = model(IDS)
    with watermark(model, Key(bytes(16)), epsilon=float("inf"), zone="boundary"):
        assert not torch.equal(model(IDS), native)


def test_two_routers_in_one_layer_have_stacks_of_their_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Block(), Block()

        def forward(self, hidden):
            return hidden + self.first(hidden) + self.second(hidden)

    stacks = [(site.stack, site.layer) for site in discover(Network(Two(), Two()))]
    assert stacks == [("decoder", 0), ("decoder.second", 0), ("decoder", 1), ("decoder.second", 1)]
