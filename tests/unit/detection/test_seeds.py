"""Decoys are drawn from hashes of what is judged, so that a verdict can be repeated with a later version."""

import hashlib

import torch

import okr
from okr.detection import text_seed
from okr.detection.verification import decoy_seed
from okr.engines import Text


def numbers(*values):
    """How a row of whole numbers is hashed: its length, then each number, in eight bytes."""
    return len(values).to_bytes(8, "big") + b"".join(value.to_bytes(8, "little") for value in values)


def test_the_seed_of_traces_is_the_hash_of_the_key_and_of_each_trace(deepseek, key):
    with okr.watermark(deepseek, key, epsilon=1.0) as wm:
        traces = wm.generate(input_ids=torch.arange(3, 11).view(2, 4), max_new_tokens=3, do_sample=False).traces
    first, second = (trace.digest() for trace in traces)
    assert first != second
    assert decoy_seed(traces, key) == hashlib.sha256(key.id.encode() + first + second).digest()


def test_the_seed_of_texts_is_the_hash_of_the_key_and_of_each_text_with_its_prompt_and_source(key):
    texts = [Text(torch.tensor([5, 6, 7]), 2, None), Text(torch.tensor([0, 8]), 1, torch.tensor([9]))]
    parts = [numbers(5, 6, 7), numbers(2), numbers(), numbers(0, 8), numbers(1), numbers(9)]
    assert text_seed(key, texts) == hashlib.sha256(key.id.encode() + b"".join(parts)).digest()
