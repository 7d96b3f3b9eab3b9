"""More of what keyed models meet: tied router weights, inference mode, parts of an attached model, shared threads."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from okr import AlreadyAttached, Key, discover, record, watermark
from tests.unit.discovery.zoo import FAMILIES, make, run

EVERYTHING = {"epsilon": math.inf, "zone": "boundary"}
KEY = Key(bytes(range(32)))


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "phimoe"])
def test_routers_with_tied_weights_are_sites_of_their_own_and_stay_tied(name):
    model = make(name)
    routers = [model.get_submodule(site.path) for site in discover(model)]
    assert len(routers) >= 2
    for router in routers[1:]:
        router.weight = routers[0].weight
    native, names = run(model, name), set(model.state_dict())
    with watermark(model, KEY, **EVERYTHING) as wm:
        assert len(wm.sites) == len(routers)
        projections = [
            KEY.projection(stack=s.stack, layer=s.layer, hidden_size=s.hidden_size, num_experts=s.num_experts).tobytes()
            for s in wm.sites
        ]
        assert len(set(projections)) == len(projections), "one weight, but a projection for each layer"
        assert not torch.equal(run(model, name), native)
        assert set(model.state_dict()) == names
    assert torch.equal(run(model, name), native)
    assert all(router.weight is routers[0].weight for router in routers)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v2", "deepseek_v3", "switch_transformers", "dbrx"])
def test_gradient_modes_do_not_change_what_runs(name):
    model = make(name)
    outputs = []
    with watermark(model, KEY, **EVERYTHING):
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                outputs.append(run(model, name).detach().clone())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_nothing_attaches_to_a_part_or_in_another_way_while_a_model_is_keyed():
    model = make("mixtral")
    with watermark(model, KEY, **EVERYTHING):
        keyed = run(model, "mixtral")
        with pytest.raises(AlreadyAttached), record(model):
            pass
        with pytest.raises(AlreadyAttached), watermark(model.model, KEY, **EVERYTHING):
            pass
        assert torch.equal(run(model, "mixtral"), keyed)
    with record(model):
        native = run(model, "mixtral")
        with pytest.raises(AlreadyAttached), watermark(model, KEY, **EVERYTHING):
            pass
    assert torch.equal(run(model, "mixtral"), native)


@pytest.mark.parametrize("name", ["deepseek_v2", "dbrx"])
def test_threads_share_a_keyed_model(name):
    """One router on the fused way, one on the general; each thread gets what it would get alone."""
    model = make(name)
    inputs = [FAMILIES[name].inputs(seed) for seed in range(6)]

    @torch.no_grad()
    def forward(one):
        return model(**one).logits

    with watermark(model, KEY, **EVERYTHING):
        expected = [forward(one) for one in inputs]
        with ThreadPoolExecutor(4) as pool:
            for got, alone in zip(pool.map(forward, inputs * 3), expected * 3, strict=True):
                assert torch.equal(got, alone)
