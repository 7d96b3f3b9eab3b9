"""Traces on disk: they come back as they were, and nothing else comes back at all."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import random_deepseek, random_switch

import okr
from okr import InvalidTrace, Key, Trace

KEY = Key(bytes(range(32)))


def make(model):
    with okr.watermark(model, KEY, epsilon=float("inf"), zone="boundary", strength=1.0) as wm:
        ids = torch.randint(3, 256, (1, 6))
        return wm.generate(input_ids=ids, max_new_tokens=5, do_sample=False).traces[0]


@pytest.fixture(scope="module", params=[random_deepseek, random_switch])
def trace(request):
    return make(request.param())


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "one.safetensors"
    make(random_deepseek()).save(path)
    return path.read_bytes()


def test_round_trip(trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    again = Trace.load(tmp_path / "t.safetensors")
    assert again.header == trace.header
    assert again.digest() == trace.digest()
    assert again.prompt_length == trace.prompt_length
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
    assert bytes(range(32)) not in (tmp_path / "t.safetensors").read_bytes()


def test_two_bytes_an_expert_choice(trace):
    assert trace.experts.dtype == np.int16


def refused(data, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidTrace) as caught:
        Trace.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, -1])
def test_truncated(content, tmp_path, keep):
    refused(content[:keep], tmp_path)


def test_enormous_header(content, tmp_path):
    refused(struct.pack("<Q", 2**62) + content[8:], tmp_path)
    refused(struct.pack("<Q", 2**24) + b" " * (2**24 + 10), tmp_path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidTrace, match="cannot read"):
            Trace.load(path)
    with pytest.raises(InvalidTrace, match="cannot write"):
        make(random_deepseek()).save(tmp_path / "no" / "folder")


def with_header(content, change):
    size = struct.unpack("<Q", content[:8])[0]
    document = json.loads(content[8 : 8 + size])
    header = json.loads(document["__metadata__"]["okr"])
    change(header)
    document["__metadata__"]["okr"] = json.dumps(header)
    raw = json.dumps(document).encode()
    return struct.pack("<Q", len(raw)) + raw + content[8 + size :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h.update(spec_version="9"), "spec_version"),
        (lambda h: h.update(key_id="not hex"), "key_id"),
        (lambda h: h.update(epsilon=-1.0), "epsilon"),
        (lambda h: h.update(strength="nan"), "strength"),
        (lambda h: h.update(zone="middle"), "zone"),
        (lambda h: h.update(secret="x"), "secret"),
        (lambda h: h.update(sites=[]), "sites"),
        (lambda h: h["sites"][0].update(top_k=0), "top_k"),
        (lambda h: h["sites"][0].update(num_experts=2), "distinct experts below 2"),
        (lambda h: h["sites"].pop(), "experts must be int16 of shape"),
        (lambda h: h.pop("model"), "model"),
    ],
)
def test_header_fields_are_checked(content, tmp_path, change, said):
    assert said in refused(with_header(content, change), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("experts", lambda a: a.astype(np.int32)),
        ("experts", lambda a: a[:-1]),
        ("experts", lambda a: np.where(a == a[0, 0, 0], np.int16(16), a)),
        ("experts", lambda a: np.where(a == a[0, 0, 0], np.int16(-3), a)),
        ("experts", lambda a: np.where(a == a[0, 0, 0], np.int16(-1), a)),
        ("experts", lambda a: np.zeros_like(a)),
        ("token_ids", lambda a: -a),
        ("token_ids", lambda a: a[:1]),
        ("token_ids", lambda a: a.astype(np.float32)),
        ("prompt_length", lambda a: 99),
        ("prompt_length", lambda a: -1),
        ("encoder_token_ids", lambda a: np.zeros(3, np.int32)),
    ],
)
def test_inconsistent_arrays_are_refused(field, value):
    trace = make(random_deepseek())
    with pytest.raises(InvalidTrace):
        dataclasses.replace(trace, **{field: value(getattr(trace, field))})


@given(data=st.data())
def test_any_flipped_bit_is_a_trace_or_invalid(content, tmp_path_factory, data):
    position = data.draw(st.integers(0, len(content) * 8 - 1))
    damaged = bytearray(content)
    damaged[position // 8] ^= 1 << position % 8
    path = tmp_path_factory.mktemp("flip") / "t.safetensors"
    path.write_bytes(damaged)
    try:
        loaded = Trace.load(path)
    except InvalidTrace:
        return
    assert loaded.experts.shape[0] == len(loaded.token_ids) - 1
