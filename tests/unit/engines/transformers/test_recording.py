"""Traces of decode loops of one's own: the same as those that generate makes."""

import numpy as np
import pytest
import torch
from small_models import random_deepseek
from torch import nn

import okr
from okr import UnsupportedGeneration, UnsupportedRouter

SETTING = {"epsilon": 1.0, "zone": "boundary"}
IDS = torch.arange(3, 13).view(2, 5)


def greedy(model, ids, new, *, cache):
    """A plain loop: ids [B, L] with ``new`` tokens more, with or without a cache."""
    past = None
    for _ in range(new):
        given = ids[:, -1:] if past is not None else ids
        output = model(input_ids=given, past_key_values=past, use_cache=cache)
        past = output.past_key_values if cache else None
        ids = torch.cat([ids, output.logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("cache", [True, False])
def test_a_loop_of_ones_own_gives_the_traces_of_generate(deepseek, key, cache):
    deepseek.generation_config.eos_token_id = None
    with okr.watermark(deepseek, key, **SETTING) as wm, torch.no_grad():
        made = wm.generate(IDS, max_new_tokens=6, do_sample=False)
        with wm.recording() as recording:
            sequences = greedy(deepseek, IDS, 6, cache=cache)
            wm.generate(IDS[:1], max_new_tokens=2)  # a recording of its own
        deepseek(IDS)  # after it
        traces = recording.traces(sequences, prompt_length=5)
    for found, wanted in zip(traces, made.traces, strict=True):
        assert found.header == wanted.header
        assert found.prompt_length == wanted.prompt_length
        assert found.token_ids.tolist() == wanted.token_ids.tolist()
        assert np.array_equal(found.experts, wanted.experts)
        assert okr.verify(deepseek, found, key).hit_rate == 1.0


def test_one_forward_of_a_text_is_a_trace(deepseek, key):
    """A loop that shows the model the last token, too, as scoring a text does; padding is left out."""
    ids = torch.randint(3, 256, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with okr.watermark(deepseek, key, **SETTING) as wm, torch.no_grad():
        with wm.recording() as recording:
            deepseek(input_ids=ids, attention_mask=mask)
        traces = recording.traces(ids, attention_mask=mask)
    assert [len(trace.token_ids) for trace in traces] == [9, 6]
    assert all(okr.verify(deepseek, trace, key, decoys=99, alpha=0.05).hit_rate == 1.0 for trace in traces)


def test_what_does_not_fit_is_refused(deepseek, switch, key):
    with okr.watermark(deepseek, key, **SETTING) as wm, torch.no_grad():
        with wm.recording() as recording:
            deepseek(input_ids=IDS)
        for bad in (IDS[0], IDS.float(), IDS[:0], [[3, 4]]):
            with pytest.raises(UnsupportedGeneration, match=r"^sequences must be an integer tensor"):
                recording.traces(bad)
        with pytest.raises(UnsupportedGeneration, match="shape of sequences"):
            recording.traces(IDS, attention_mask=IDS[:, 1:])
        with pytest.raises(UnsupportedGeneration, match=r"^attention_mask must be an integer tensor"):
            recording.traces(IDS, attention_mask=IDS.float())
        for bad in (6, -1, True, 2.0, None):
            with pytest.raises(UnsupportedGeneration, match="prompt_length"):
                recording.traces(IDS, prompt_length=bad)
        with pytest.raises(UnsupportedRouter, match="does not cover"):
            recording.traces(torch.cat([IDS, IDS], 1))
    with okr.record(switch) as recorder:
        with recorder.recording() as recording, torch.no_grad():
            switch(input_ids=IDS, decoder_input_ids=IDS)
        with pytest.raises(UnsupportedGeneration, match="decoders alone"):
            recording.traces(IDS)


@pytest.mark.parametrize("shown", [(5, 6, 7), (5, 6, 7, 8)])
def test_a_loop_without_a_cache_may_show_the_last_token(deepseek, shown):
    """Calls that showed a text of 8 tokens whole were refused."""
    ids = torch.randint(3, 256, (2, 8))
    with okr.record(deepseek) as recorder, torch.no_grad():
        with recorder.recording() as recording:
            for length in shown:
                deepseek(ids[:, :length])
        with recorder.recording() as once:
            deepseek(ids)
    for found, wanted in zip(recording.traces(ids), once.traces(ids), strict=True):
        assert np.array_equal(found.experts, wanted.experts)


def test_calls_with_two_readings_are_refused(deepseek):
    """One token and then two: of a text of three tokens, row 0 was recorded for the second token as well."""
    ids = torch.randint(3, 256, (1, 3))
    with okr.record(deepseek) as recorder, torch.no_grad(), recorder.recording() as recording:
        deepseek(ids[:, :1])
        deepseek(ids[:, :2])
    with pytest.raises(UnsupportedGeneration, match="calls of 1 and then 2 tokens"):
        recording.traces(ids)
    assert recording.traces(ids[:, :2])[0].token_ids.tolist() == ids[0, :2].tolist()


class Plain(nn.Module):
    """A model of nobody's library: no configuration, no generate, ids in and logits out."""

    def __init__(self):
        super().__init__()
        inner = random_deepseek()
        self.table, self.layers, self.turn = inner.model.embed_tokens, inner.model.layers, inner.model.rotary_emb
        self.head = inner.lm_head

    def forward(self, ids):
        places = torch.arange(ids.shape[1])[None]
        states = self.table(ids)
        for layer in self.layers:
            states = layer(states, position_embeddings=self.turn(states, places), position_ids=places)
        return self.head(states)


def test_a_plain_module_is_keyed_recorded_verified_and_detected(key, other_key):
    model = Plain().eval()
    with okr.watermark(model, key, **SETTING) as wm, torch.no_grad():
        with pytest.raises(UnsupportedGeneration, match="has no generate"):
            wm.generate(IDS, max_new_tokens=2)
        ids = IDS
        with wm.recording() as recording:
            for _ in range(20):
                ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
        traces = recording.traces(ids, prompt_length=5)
    verdict = okr.verify(model, traces, key)
    assert verdict.hit_rate == 1.0
    assert verdict.watermarked
    assert not okr.verify(model, traces, other_key).watermarked
    assert okr.attribute(model, traces, [other_key, key]).key_id == key.id
    text = okr.detect(model, ids[0], key, **SETTING, decoys=19)
    assert text.opportunities > 0
    assert np.isfinite(text.log_likelihood)
