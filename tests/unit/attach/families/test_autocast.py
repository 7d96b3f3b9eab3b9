"""Under autocast the key still decides in float32: every family's selections are legal, and paid as the family pays."""

import numpy as np
import pytest
import torch
from small_models import random_deepseek

import okr
from okr import Key, watermark
from okr.attach.routings import Keyed
from okr.routing import key_scores
from tests.unit.attach.families.oracle import is_legal
from tests.unit.attach.families.test_keyed_families import EVERYTHING, FIRST, KEYED, keyable
from tests.unit.discovery.zoo import build, run

UNDER_AUTOCAST = [
    name for name in KEYED if name != "dbrx"
]  # transformers' dbrx itself fails: its experts add up dtypes
DTYPES = [torch.bfloat16, torch.float16]
SOFT = {"epsilon": 1.0, "zone": "boundary", "strength": 1.0}


@pytest.fixture
def choices(monkeypatch):
    """Every choice that a key made: the site, what it ranked [T, E], the router's input [T, d], the experts [T, k]."""
    seen = []
    own = Keyed.choose

    def choose(self, scores, hidden, native):
        chosen = own(self, scores, hidden, native)
        seen.append((self.site, *(part.detach().double().numpy() for part in (scores, hidden, chosen))))
        return chosen

    monkeypatch.setattr(Keyed, "choose", choose)
    return seen


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", UNDER_AUTOCAST)
def test_every_family_selects_legally_under_autocast(name, dtype, choices):
    model = build(name)
    with watermark(model, FIRST, **SOFT), torch.autocast("cpu", dtype=dtype):
        run(model, name)
    assert {site.path for site, *_ in choices} == {site.path for site in keyable(model)}
    for site, scores, hidden, chosen in choices:
        with np.errstate(divide="ignore"):
            choice = np.log(scores) if site.ranks == "probabilities" else scores
        signs = FIRST.projection(
            stack=site.stack, layer=site.layer, hidden_size=site.hidden_size, num_experts=site.num_experts
        )
        length = np.linalg.norm(hidden, axis=-1, keepdims=True)
        keys = hidden @ signs / np.where(length, length, 1.0)
        for token, selected in enumerate(chosen.astype(int)):
            assert is_legal(selected, choice[token], keys[token], **SOFT), (site.path, token)


@pytest.mark.parametrize("name", UNDER_AUTOCAST)
def test_an_attached_router_that_routes_natively_changes_no_bit_under_autocast(name):
    model = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        native = run(model, name)
        with okr.record(model):
            assert torch.equal(run(model, name), native)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_key_scores_are_those_without_autocast(dtype):
    hidden, signs = torch.randn(50, 64), torch.randint(0, 2, (64, 16)).float() * 2 - 1
    expected = key_scores(hidden, signs)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(key_scores(hidden, signs), expected)
        with torch.autocast("cpu", enabled=False), torch.autocast("cpu", dtype=dtype):
            assert torch.equal(key_scores(hidden, signs), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outside", [True, False])
def test_a_trace_made_under_autocast_proves_the_key(dtype, outside, key):
    """Judged in the same autocast it repeats but for rounding; judged in float32 it still proves."""
    model = random_deepseek()
    ids = torch.arange(3, 9)[None]
    around, inside = (torch.autocast("cpu", dtype=dtype, enabled=on) for on in (not outside, True))
    with around, okr.watermark(model, key, **EVERYTHING) as wm, inside:
        trace = wm.generate(ids, max_new_tokens=40, do_sample=False, use_cache=False).traces[0]
    assert okr.verify(model, trace, key).watermarked
    with torch.autocast("cpu", dtype=dtype):
        verdict = okr.verify(model, trace, key)
    assert verdict.watermarked
    assert verdict.hit_rate > 0.98
    assert not okr.verify(model, trace, Key(bytes(range(40, 72)))).watermarked


def test_a_model_prepared_for_mixed_precision_is_keyed(key):
    from accelerate import Accelerator

    model = Accelerator(cpu=True, mixed_precision="bf16").prepare_model(random_deepseek(), evaluation_mode=True)
    ids = torch.arange(3, 9)[None]
    with okr.watermark(model, key, **SOFT) as wm:
        trace = wm.generate(ids, max_new_tokens=30, do_sample=False).traces[0]
    assert okr.verify(model, trace, key).watermarked


def test_text_is_judged_in_float32_under_autocast(key):
    model = random_deepseek()
    text = torch.randint(3, 256, (40,))
    expected = okr.detect(model, text, key, **SOFT, decoys=19)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = okr.detect(model, text, key, **SOFT, decoys=19)
    assert abs(found.log_likelihood - expected.log_likelihood) < 0.02 * abs(expected.log_likelihood)
    assert found.opportunities > 0
