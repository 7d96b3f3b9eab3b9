"""The complete experiment at full size, and what its parts rest on: replay, host memory, offloading, running out."""

import resource

import pytest
import torch

import okr
from okr.errors import OutOfMemory
from okr.loaders import loading, memory_guard
from okr.loaders.random_weights import SHAPE
from okr.loaders.sources import RANDOM
from tests.gpu import bodies


def test_the_guides_experiment_in_bfloat16(needs, tmp_path):
    """33 GB of weights, a cache and two copies of a router's input."""
    needs(40)
    document = bodies.complete_experiment(bodies.subject(), tmp_path / "run")
    assert document["summary"]["watermarked_samples"] == document["summary"]["total_samples"] == 4
    assert document["summary"]["average_hit_rate"] >= 0.99
    assert len(document["router_sites"]) == 27
    assert all(sample["verdict"]["p_value"] > 0.001 for sample in document["control_results"])


def test_replay_in_bfloat16_finds_the_routing_again(full_size):
    assert bodies.replayed_hit_rate(full_size.model, "cuda:0", batch=4, new_tokens=48) >= 0.99


def test_random_weights_are_made_without_a_copy_on_the_host(needs):
    card = needs(40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = okr.load(RANDOM, device_map=card).model
    assert sum(p.numel() for p in model.parameters()) * 2 > 32e9
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 8e9, f"host memory grew by {grown / 1e9:.1f} GB"


def test_layers_may_lie_on_the_card_and_on_the_host(needs, monkeypatch):
    """Eight layers of the 16B shape, 9.2 GB: making all of it on a host and moving its layers takes minutes."""
    needs(6)
    monkeypatch.setattr(loading, "SHAPE", SHAPE | {"num_hidden_layers": 8})
    before = torch.cuda.memory_allocated(0)
    loaded = okr.load(RANDOM, dtype="bfloat16", device_map="auto", max_memory={0: "4GiB", "cpu": "8GiB"})
    assert bodies.offloaded_devices(loaded.model) == {"cpu", "card"}
    assert torch.cuda.memory_allocated(0) - before <= 4 * bodies.GIB
    assert bodies.replayed_hit_rate(loaded.model, "cuda:0", batch=1, new_tokens=6) >= 0.99


def test_running_out_of_memory_names_the_cards_own_figures(needs):
    card = needs(2)
    total = torch.cuda.get_device_properties(0).total_memory / bodies.GIB
    with pytest.raises(OutOfMemory) as caught, memory_guard("generating", batch_size=64, max_length=4096):
        torch.empty(int(total * 2) * bodies.GIB, dtype=torch.uint8, device=card)
    said = str(caught.value)
    figures = ("generating", "batch size 64", "max length 4096", "more were asked for", f"has {total:.2f} GiB", "free")
    assert [part for part in figures if part not in said] == []
