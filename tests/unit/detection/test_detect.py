"""Detection from text alone: exact under the null hypothesis, and the key is found where there is text enough."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch.nn.functional import log_softmax

import okr
from okr import InvalidSetting, InvalidText, Key
from okr.detection import Decoys, likelihoods, statistic, z_score
from okr.detection.text import as_texts
from okr.discovery import keyable_sites
from okr.engines import Text
from okr.engines.transformers import TransformersEngine
from okr.engines.transformers.attaching import attached
from okr.engines.transformers.routings import Keyed
from okr.routing import Setting

SOFT = {"epsilon": math.inf, "zone": "boundary", "strength": 4.0}


def sampled(model, key, tokens, seed=0, **setting):
    """A text sampled under ``key``; encoder-decoders also return what the encoder read."""
    torch.manual_seed(seed)
    prompt = torch.randint(3, 256, (1, 5))
    with okr.watermark(model, key, **setting):
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": tokens, "min_new_tokens": tokens}
        return model.generate(input_ids=prompt, use_cache=not model.config.is_encoder_decoder, **options)[0], prompt[0]


class ImageOf:
    """A key whose projections are another key's, columns permuted and signs changed: what a decoy stands for."""

    id = "image"

    def __init__(self, key, images, number):
        self.key, self.images, self.number = key, images, number

    def projection(self, *, stack, layer, **shape):
        part = self.images[stack, layer]
        columns, signs = part.columns[self.number].numpy(), part.signs[self.number].numpy().astype(np.int8)
        return self.key.projection(stack=stack, layer=layer, **shape)[:, columns] * signs


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_keys_side_by_side_are_keys_one_by_one(moe, key, rows):
    """log p of the claimed key and each decoy, in one batch, against a model attached under that key alone."""
    torch.manual_seed(3)
    encoder_decoder = moe.config.is_encoder_decoder
    text = Text(torch.randint(3, 256, (9,)), 4, torch.randint(3, 256, (6,)) if encoder_decoder else None)
    sites, setting = keyable_sites(moe), Setting(math.inf, "boundary", 2.0)
    if encoder_decoder:  # one row alone would meet the whole capacity, several rows share it
        for site in sites:
            moe.get_submodule(site.path).expert_capacity = 10**6
    images = [Decoys.draw(4, site.num_experts, site.path.encode()[-8:]) for site in sites]
    found = likelihoods(okr.prepare(moe), [text], key, setting, images, temperature=1.5, rows=rows)
    by_place = {(site.stack, site.layer): part for site, part in zip(sites, images, strict=True)}
    arguments = {"input_ids": text.tokens[None, :-1], "use_cache": False}
    if encoder_decoder:
        arguments |= {"input_ids": text.source[None], "decoder_input_ids": text.tokens[None, :-1]}
    for number in range(5):
        routings = [Keyed(site, ImageOf(key, by_place, number), setting) for site in sites]
        with torch.no_grad(), attached(moe, sites, routings):
            logits = moe(**arguments).logits[0, text.prompt_length - 1 :]
        expected = log_softmax(logits / 1.5, -1).gather(-1, text.tokens[text.prompt_length :, None])[:, 0]
        torch.testing.assert_close(found.keyed[number].float(), expected, atol=2e-4, rtol=1e-4)
    with torch.no_grad():
        native = log_softmax(moe(**arguments).logits[0, text.prompt_length - 1 :] / 1.5, -1)
    expected = native.gather(-1, text.tokens[text.prompt_length :, None])[:, 0]
    torch.testing.assert_close(found.unkeyed.float(), expected, atol=2e-4, rtol=1e-4)


def test_p_values_of_unrelated_keys_are_uniform(deepseek):
    """One repetitive text, 150 keys, 19 decoys each: more than 25 of 150 at p <= 0.05 happen with probability below
    1e-6 (7.5 expected), and a mean outside (0.38, 0.62) with less (standard error 0.024)."""
    text, engine = torch.tensor([1, *[5, 6] * 8]), okr.prepare(deepseek)
    p = [
        okr.detect(engine, text, Key(i.to_bytes(16, "big")), decoys=19, alpha=0.05, rows=20, **SOFT).p_value
        for i in range(150)
    ]
    assert binom.sf(25, 150, 0.05) < 1e-6
    assert sum(value <= 0.05 for value in p) <= 25
    assert 0.38 < np.mean(p) < 0.62


def test_the_key_is_found_and_another_is_not(key):
    """On a trained model; the seeds are fixed, so the outcome is too."""
    model, setting = okr.load("tiny-deepseek-moe").model, {"epsilon": math.inf, "zone": "boundary", "strength": 2.5}
    torch.manual_seed(0)
    with okr.watermark(model, key, **setting):
        prompts = torch.randint(3, 4096, (2, 5))
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": 100, "min_new_tokens": 100}
        texts = model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), **options)
    options = {"prompt_length": 5, "decoys": 19, **setting}
    found = okr.detect(model, texts, key, **options)
    assert found.watermarked
    assert found.exact
    assert found.z > 3
    assert found.tokens == 200
    assert found.log_likelihood_ratio > 0
    assert "unkeyed model" in found.ratio_null
    assert str(found).startswith(f"watermarked under key {key.id}: p = 0.05")
    wrong = okr.detect(model, texts, Key(bytes([7]) * 32), **options)
    assert not wrong.watermarked
    assert wrong.hit_rate is None
    half = {"token_ids": texts[:1, :30], "key": key} | options
    assert okr.detect(model, **half) == okr.detect(model, **half)


def test_rounding_that_depends_on_the_place_in_a_batch_favours_no_key(deepseek, monkeypatch):
    """The first row a little likelier and all keys alike otherwise: p <= 0.1 for more
    than 34 of 120 keys happens with probability below 1e-6 (12 expected)."""
    assert binom.sf(34, 120, 0.1) < 1e-6
    exact = TransformersEngine.log_p

    def rounded(engine, text, rows, temperature):
        found = torch.zeros_like(exact(engine, text, rows, temperature))
        found[0] += 1e-9  # where keys are in order, the claimed one
        return found

    monkeypatch.setattr(TransformersEngine, "log_p", rounded)
    options, prepared = {"decoys": 9, "alpha": 0.1, "rows": 10, **SOFT}, okr.prepare(deepseek)
    found = [
        okr.detect(prepared, [1, *range(5, 21)], Key(bytes([number] * 16)), **options).p_value for number in range(120)
    ]
    assert sum(p <= 0.1 + 1e-12 for p in found) <= 34


def test_an_encoder_decoder_needs_what_its_encoder_read(switch, key):
    tokens, source = sampled(switch, key, 20, **SOFT)
    verdict = okr.detect(switch, tokens, key, source_ids=source, decoys=19, **SOFT)
    assert verdict.tokens == len(tokens) - 1
    with pytest.raises(InvalidText, match="source_ids"):
        okr.detect(switch, tokens, key, **SOFT)


def test_no_opportunity_is_no_evidence(deepseek, key):
    verdict = okr.detect(deepseek, [1, 5, 6, 7, 8], key, epsilon=0.0)
    assert (verdict.p_value, verdict.opportunities, verdict.watermarked) == (1.0, 0, False)
    assert str(verdict).startswith("cannot tell")


@pytest.mark.parametrize("judged", [1, 2, 15])
def test_fewer_than_16_judged_tokens_cannot_be_told(deepseek, key, judged):
    """Whatever the key, and though the key could decide: before, one key in a hundred was found in a single letter."""
    verdicts = [
        okr.detect(deepseek, [1, 5, *[6] * (judged - 1)], Key(bytes([number] * 16)), decoys=1, alpha=0.5, **SOFT)
        for number in range(12)
    ]
    for verdict in verdicts:
        assert (verdict.p_value, verdict.watermarked, verdict.z) == (1.0, False, 0.0)
        assert verdict.opportunities > 0
        plural = "s" * (judged != 1)
        assert str(verdict) == f"cannot tell: {judged} judged token{plural}, at least 16 are needed (p = 1)"


def test_the_tokens_of_short_texts_count_together(deepseek, key):
    """24 texts of 4 judged tokens under one key: as one test there are 96."""
    texts = [sampled(deepseek, key, 4, seed, **SOFT)[0] for seed in range(24)]
    together = okr.detect(deepseek, texts, key, prompt_length=5, decoys=99, alpha=0.01, **SOFT)
    assert together.tokens == 96
    assert together.p_value < 1
    assert okr.detect(deepseek, texts[0], key, prompt_length=5, decoys=99, alpha=0.01, **SOFT).p_value == 1


def test_the_statistic_is_the_one_documented_and_bounded_below():
    log_p = torch.randn(6, 8, dtype=torch.float64) - 3
    p = log_p.exp()
    expected = torch.log(0.9 * p / p.mean(0) + 0.1).sum(1)
    torch.testing.assert_close(statistic(log_p), expected)
    log_p[0] = -math.inf  # a text that the key finds impossible in every token
    torch.testing.assert_close(statistic(log_p)[0], torch.tensor(8 * math.log(0.1), dtype=torch.float64))


@pytest.mark.filterwarnings("error")
def test_one_decoy_has_no_spread():
    assert z_score(1.0, torch.ones(1)) == 0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ([], {}, "must be token ids"),
        ("some words", {}, "must be token ids"),
        ([1], {}, "at least two"),
        ([1.0, 2.0], {}, "must be token ids"),
        ([1, 256], {}, "between 0 and 255"),
        ([1, -1], {}, "between 0 and 255"),
        ([1] * 258, {}, "split it"),
        ([1, 2], {"prompt_length": 2}, "prompt_length"),
        ([1, 2], {"prompt_length": -1}, "prompt_length"),
        ([[1, 2], [1, 2]], {"prompt_length": [1]}, "do not match"),
        ([1, 2], {"source_ids": [1, 2]}, "no encoder"),
        ([[1, 2], [[3]]], {}, "must be token ids"),
    ],
)
def test_text_that_cannot_be_judged(deepseek, key, text, options, message):
    with pytest.raises(InvalidText, match=message) as caught:
        okr.detect(deepseek, text, key, epsilon=1.0, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "lost"), [(math.nan, 2), (math.inf, 2), (-math.inf, 1)])
def test_a_model_without_probabilities_is_no_evidence(deepseek, key, value, lost):
    """NaN loses every comparison, so no decoy would ever reach the claimed key: p would be as small as can be."""
    model = copy.deepcopy(deepseek)
    model.get_output_embeddings().register_forward_hook(
        lambda *found: found[-1].index_fill(-1, torch.tensor([2]), value)
    )
    with pytest.raises(InvalidText, match=f"{lost} of 2 judged tokens no probability"):
        okr.detect(model, [1, 2, 3], key, epsilon=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"decoys": 0},
        {"decoys": 18},
        {"decoys": True},
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"zone": "middle"},
        {"strength": 0.0},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"rows": 0},
    ],
)
def test_settings_out_of_range(deepseek, key, options):
    with pytest.raises(InvalidSetting):
        okr.detect(deepseek, [1, 2, 3], key, **({"epsilon": 1.0} | options))


def test_texts_come_in_many_forms(deepseek):
    row = [1, 2, 3]
    for one in (row, tuple(row), np.array(row), torch.tensor(row), list(torch.tensor(row)), [1, *np.array([2, 3])]):
        (text,) = as_texts(okr.prepare(deepseek), one, 0, None)
        assert text.tokens.tolist() == row
        assert text.prompt_length == 1
    for several in ([row, row[:2]], [torch.tensor(row), np.array(row[:2])], torch.tensor([row, row])):
        assert len(as_texts(okr.prepare(deepseek), several, [1, 1], None)) == 2
