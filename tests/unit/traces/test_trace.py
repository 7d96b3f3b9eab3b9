"""Traces on disk: they come back as they were, and nothing else comes back at all."""

import dataclasses
import json
import logging
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load, save
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


def test_a_file_of_a_gibibyte_is_read_and_a_larger_one_is_not(content, tmp_path, monkeypatch):
    path = tmp_path / "large.safetensors"
    path.write_bytes(content)
    for size in (2**30, 2**30 + 1):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", lambda self, size=size: SimpleNamespace(st_size=size))
            if size == 2**30:
                Trace.load(path)
                continue
            with pytest.raises(InvalidTrace, match="larger than"):
                Trace.load(path)


@pytest.mark.parametrize("limit", ["MAX_FILE_BYTES", "MAX_HEADER_BYTES"])
def test_what_would_be_too_large_to_be_loaded_is_not_saved(content, tmp_path, monkeypatch, limit):
    (tmp_path / "one.safetensors").write_bytes(content)
    trace, path = Trace.load(tmp_path / "one.safetensors"), tmp_path / "again.safetensors"
    size = len(content) if limit == "MAX_FILE_BYTES" else struct.unpack("<Q", content[:8])[0]
    monkeypatch.setattr(f"okr.traces.trace.{limit}", size)
    trace.save(path)
    assert path.read_bytes() == content
    path.unlink()
    monkeypatch.setattr(f"okr.traces.trace.{limit}", size - 1)
    with pytest.raises(InvalidTrace, match="too large"):
        trace.save(path)
    assert not path.exists()


def test_a_header_cannot_be_changed(trace):
    header, model = trace.header, trace.header.model
    for part, name in ((header, "key_id"), (header.sites[0], "layer"), (model, "routers"), (model.weights, "values")):
        with pytest.raises(ValidationError):
            setattr(part, name, None)


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


def damaged(content, rng):
    """``content`` hurt in one of the ways that disks, networks and people have."""
    size = len(content)
    first, second = sorted(rng.integers(0, size, 2))
    way = rng.integers(0, 8)
    if way == 0:  # truncated
        return content[:first]
    if way == 1:  # bits flipped
        hurt = np.frombuffer(content, np.uint8).copy()
        np.bitwise_xor.at(hurt, rng.integers(0, size, rng.integers(1, 9)), 1 << rng.integers(0, 8))
        return hurt.tobytes()
    if way == 2:  # two parts swapped
        return content[second:] + content[first:second] + content[:first]
    if way == 3:  # a part missing, or there twice
        return content[:first] + content[second:] if rng.random() < 0.5 else content[:second] + content[first:]
    if way == 4:  # a part overwritten with one byte or noise
        noise = rng.bytes(second - first) if rng.random() < 0.5 else bytes([rng.integers(0, 256)]) * (second - first)
        return content[:first] + noise + content[second:]
    if way == 5:  # an enormous or wrong header length
        return struct.pack("<Q", int(rng.integers(0, 2**63))) + content[8:]
    if way == 6:  # numbers of the JSON header changed
        return bytes(int(rng.integers(48, 58)) if 48 <= b < 58 and rng.random() < 0.05 else b for b in content)
    arrays = load(content)  # other values under the old checksum: negative, out of range, not numbers, swapped
    name = sorted(arrays)[rng.integers(0, len(arrays))]
    array = arrays[name]
    changes = [lambda: -array, lambda: array + 7, lambda: array[::-1].copy(), lambda: array[:-1], lambda: array[:0]]
    changes += [lambda: np.full(array.shape, np.nan, np.float32), lambda: array.astype(np.int64), lambda: array[None]]
    arrays[name] = np.ascontiguousarray(changes[rng.integers(0, len(changes))]())
    raw = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return save(arrays, metadata=raw["__metadata__"])


def test_ten_thousand_damaged_files_are_refused_or_harmless(content, tmp_path):
    """Never a traceback and never another trace than the one that was saved."""
    rng, path = np.random.default_rng(0), tmp_path / "t.safetensors"
    path.write_bytes(content)
    whole, refused_files = Trace.load(path).digest(), 0
    for _ in range(10_000):
        path.write_bytes(damaged(content, rng))
        try:
            found = Trace.load(path).digest()
        except InvalidTrace:
            refused_files += 1
        else:
            assert found == whole
    assert refused_files > 9_000


ROUTED = st.sampled_from(["routers", "layers"])


@settings(max_examples=12)
@given(ROUTED, st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_routed_experts_of_engines_become_traces(layout, first, with_last, seed):
    """Every documented layout, against the trace that the model itself recorded."""
    model = SMALL_MODEL
    torch.manual_seed(seed % 3)
    own = make(model)
    rows = np.concatenate([own.experts, np.zeros_like(own.experts[:1])])  # the last token's slot: not filled
    rows = rows[first:] if with_last else rows[first:-1]
    array = rows.astype(np.int32)
    if layout == "layers":
        array = np.zeros((len(rows), 3, 4), np.int32)  # layer 0 is dense
        array[:, [1, 2]] = rows
    made = Trace.from_routed_experts(
        own.token_ids.tolist(), array, model=model, prompt_length=6, first=first,
        key_id=KEY.id, epsilon=float("inf"), zone="boundary", strength=1.0,
    )  # fmt: skip
    assert (made.experts[:first] == -1).all()
    assert (made.experts[first:] == own.experts[first:]).all()
    assert made.header == own.header
    verdict = okr.verify(model, made, KEY, decoys=19, alpha=0.05)
    assert verdict.hit_rate == 1.0 if first == 0 else verdict.hit_rate > 0.8  # what is not recorded runs natively
    assert verdict.routed == 2 * (len(own.experts) - first)


SMALL_MODEL = random_deepseek()


@pytest.mark.parametrize(
    ("tokens", "array", "options", "said"),
    [
        ([1], np.zeros((1, 2, 4), int), {}, "two token ids"),
        ([1.5, 2.5], np.zeros((1, 2, 4), int), {}, "two token ids"),
        ([1, 2, 3], np.zeros((2, 8), int), {}, r"\[rows, layers, k\]"),
        ([1, 2, 3], np.zeros((2, 2, 4)), {}, "whole numbers"),
        ([1, 2, 3], np.zeros((4, 2, 4), int), {}, "do not fit"),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"first": 2}, "do not fit"),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"first": -1}, "do not fit"),
        ([1, 2, 3], np.zeros((2, 1, 4), int), {}, "neither one for each router"),
        ([1, 2, 3], np.zeros((2, 4, 4), int), {}, r"nor one for each layer \(3\): .*layers="),
        ([1, 2, 3], np.zeros((2, 2, 6), int), {}, "shared experts"),
        ([1, 2, 3], np.zeros((2, 3, 0), int), {}, "shared experts"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": [0, 1, 5]}, "lacks layer 2"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": [1, 2]}, "2 layers for 3 columns"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": [1, 2, 2]}, "twice"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": [1, 2, 3.0]}, "whole numbers"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": [True, 2, 3]}, "whole numbers"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": "123"}, "whole numbers"),
        ([1, 2, 3], np.zeros((2, 3, 4), int), {"layers": 3}, "whole numbers"),
        ([1, 2, 3], np.arange(16).reshape(2, 2, 4) + 8, {}, "which has 16: map the physical experts"),
        ([1, 2, 3], np.full((2, 2, 4), [[[40], [41]]]).swapaxes(0, 1), {}, "which has 16: map the physical experts"),
        ([1, 2, 3], np.zeros((1, 2, 4), int), {}, "give first="),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"prompt_length": 9}, "prompt_length"),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"sites": []}, "at least one router"),
        ([1, 2, 3], torch.zeros((2, 2, 4), dtype=torch.bfloat16), {}, "nor of bfloat16"),
        ([1, 2, 3], torch.zeros((2, 2, 4), dtype=torch.int32, device="meta"), {}, "of another device"),
        ([1, 2, 3], [None, [[1, 2, 3, 4], [1, 2, 3, 4]]], {}, "as many entries in every row"),
        ([1, 2, 3], [[[1, 2, 3], [1, 2, 3, 4]]] * 2, {}, "as many entries in every row"),
        ([[1, 2], [3]], np.zeros((2, 2, 4), int), {}, "token_ids must be one array"),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"first": True}, "do not fit"),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"key_id": "mine"}, "header field key_id: String should match"),
        ([1, 2, 3], np.zeros((2, 2, 4), int), {"zone": "middle"}, "header field zone: Input should be"),
    ],
)
def test_arrays_that_no_engine_returns_are_refused(tokens, array, options, said):
    with pytest.raises(InvalidTrace, match=said) as caught:
        Trace.from_routed_experts(tokens, array, model=SMALL_MODEL, **options)
    assert "\n" not in str(caught.value)


def routing(rows, columns, seed=0, num_experts=16, k=4):
    """Choices of routers that never repeat themselves: [rows, columns, k], k distinct experts each, never in order."""
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((rows, columns, num_experts)), axis=-1)[..., :k]
    return np.sort(ranked, axis=-1)[..., ::-1].copy() if k > 1 else ranked


def taken(array, **options):
    """The experts of a trace of as many different tokens as ``array`` has rows, and one more."""
    tokens = options.pop("tokens", range(3, len(array) + 4))
    return Trace.from_routed_experts(list(tokens), array, **{"model": SMALL_MODEL} | options).experts


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "okr"]


def test_a_column_for_multi_token_prediction_is_no_layer():
    """Four layers, the first dense, and three columns of routers with one of another head: as many as layers."""
    model = random_deepseek(num_hidden_layers=4)
    own = make(model)
    extra = routing(len(own.experts), 1)
    array = np.concatenate([own.experts, extra], axis=1)
    setting = {"key_id": KEY.id, "epsilon": float("inf"), "zone": "boundary", "strength": 1.0, "prompt_length": 6}
    with pytest.raises(InvalidTrace, match=r"layer 0, which has no router, is not constant; .*layers="):
        Trace.from_routed_experts(own.token_ids, array, model=model, **setting)
    made = Trace.from_routed_experts(own.token_ids, array, model=model, layers=[1, 2, 3, 4], **setting)
    assert made.digest() == own.digest()
    assert okr.verify(model, made, KEY, decoys=19, alpha=0.05).hit_rate == 1.0


@pytest.mark.parametrize("layers", [[2, 7, 1, 0], (2, 7, 1, 0), np.array([2, 7, 1, 0])])
def test_columns_are_found_by_the_layers_that_are_named(layers):
    array = routing(9, 4)
    assert (taken(array, layers=layers) == array[:, [2, 0]]).all()


def test_named_layers_of_as_many_columns_as_routers():
    array = routing(9, 2)
    assert (taken(array, layers=[2, 1]) == array[:, ::-1]).all()
    with pytest.raises(InvalidTrace, match="lacks layer 1"):
        taken(array, layers=[2, 3])


@pytest.mark.parametrize("idle", [-1, 0, 5, np.arange(4), np.arange(9)[:, None]])
def test_a_dense_layers_column_may_be_anything_that_no_router_made(idle):
    array = routing(9, 3)
    array[:, 0] = idle
    assert (taken(array) == array[:, 1:]).all()


def test_too_few_rows_show_no_constant_column():
    with pytest.raises(InvalidTrace, match="layers="):
        taken(routing(1, 3))


def test_a_model_of_unknown_depth_needs_named_layers(monkeypatch):
    array = np.concatenate([np.zeros((9, 1, 4), int), routing(9, 2)], axis=1)
    sites = okr.discover(SMALL_MODEL)
    monkeypatch.setattr("okr.traces.trace.depth_of", lambda model: None)
    with pytest.raises(InvalidTrace, match="layers="):
        taken(array, sites=sites)
    assert (taken(array, sites=sites, layers=range(3)) == array[:, 1:]).all()


def test_two_routers_in_one_layer_have_no_named_column():
    sites = [dataclasses.replace(site, layer=1) for site in okr.discover(SMALL_MODEL)]
    with pytest.raises(InvalidTrace, match="layer 1 has two routers"):
        taken(routing(9, 2), sites=sites, layers=[1, 2])


def test_what_routers_made_is_taken_without_a_word(caplog):
    array = routing(40, 2)
    array[3] = -1  # said to be missing
    assert (taken(array) == array).all()
    assert warned(caplog) == []


def test_dummy_rows_are_ignored(caplog):
    array = routing(12, 2)
    array[[2, 7, 8]] = np.arange(4)
    array[5, 0] = np.arange(4)  # one router may well choose these
    with caplog.at_level(logging.WARNING, logger="okr"):
        experts = taken(array)
    kept = np.setdiff1d(np.arange(12), [2, 7, 8])
    assert (experts[[2, 7, 8]] == -1).all()
    assert (experts[kept] == array[kept]).all()
    (line,) = warned(caplog)
    assert "3 of 12 rows ignored" in line
    assert "a dummy (3)" in line


def test_dummy_rows_beside_a_dense_layers_column():
    array = routing(12, 3)
    array[:, 0] = 0
    array[4] = np.arange(4)
    experts = taken(array)
    assert (experts[4] == -1).all()
    assert (np.delete(experts, 4, 0) == np.delete(array[:, 1:], 4, 0)).all()


def test_unfilled_rows_are_counted(caplog):
    array = routing(12, 2)
    array[6:] = 0
    array[1, 0] = 9
    experts = taken(array)
    assert (experts[6:] == -1).all()
    assert (experts[1, 0] == -1).all()
    assert (experts[1, 1] == array[1, 1]).all()
    (line,) = warned(caplog)
    assert "7 of 12 rows ignored" in line
    assert "unfilled (7)" in line
    assert "stale" not in line


def test_stale_rows_are_ignored(caplog):
    """Two routers of four experts may say the same of a few different tokens, hardly of twelve."""
    array = routing(40, 2)
    array[3:6] = array[3]
    array[8:20] = array[8]
    array[22:34, 0] = array[22, 0]  # in one column only
    experts = taken(array)
    kept = np.setdiff1d(np.arange(40), np.arange(8, 20))
    assert (experts[8:20] == -1).all()
    assert (experts[kept] == array[kept]).all()
    (line,) = warned(caplog)
    assert "12 of 40 rows ignored" in line
    assert "one row for different tokens (12)" in line


def test_with_many_routers_two_stale_rows_are_enough():
    model = random_deepseek(num_hidden_layers=13)
    array = routing(40, 12)
    array[31] = array[4]
    array[:, :, 0][20] = 3  # one row of the same experts everywhere
    array[20] = array[20, 0]
    experts = taken(array, model=model)
    assert (experts[[4, 20, 31]] == -1).all()
    kept = np.setdiff1d(np.arange(40), [4, 20, 31])
    assert (experts[kept] == array[kept]).all()


def test_what_was_ignored_is_counted_on_the_trace():
    array = np.concatenate([routing(12, 2), routing(12, 1)], axis=1)
    array[[2, 7]] = np.arange(4)
    array[9] = 65535  # a pad of unsigned integers
    array[10, 0, 2:] = -1
    trace = Trace.from_routed_experts(list(range(13)), array, model=SMALL_MODEL, layers=[1, 2, 3])
    assert trace.ignored == {
        "slots left unfilled": 1,
        "slots filled in part": 1,
        "a dummy": 2,
        "columns of other layers": 1,
    }
    assert (trace.experts[[2, 7, 9]] == -1).all()
    assert (trace.experts[10, 0] == -1).all()


def test_a_type_that_cannot_hold_the_experts_is_refused():
    with pytest.raises(InvalidTrace, match="int8 cannot hold 200"):
        taken(routing(5, 2).astype(np.int8), model=random_deepseek(n_routed_experts=200))


def test_numbers_that_wrapped_around_in_a_narrow_type_are_refused():
    """256 experts as bytes, read as int8 and widened: every row is a choice in part, and none is one."""
    model = random_deepseek(n_routed_experts=256)
    array = routing(20, 2, num_experts=256).astype(np.uint8)
    with pytest.raises(InvalidTrace, match="too narrow for its numbers"):
        taken(array.view(np.int8).astype(np.int32), model=model)
    array[:3] = 255  # a pad, and an expert
    assert (taken(array, model=model)[3:] == array[3:]).all()


def test_one_column_too_few_is_not_read_as_one_a_router(caplog):
    """Three columns of layers, the first dense, and one of them lost: as many as routers."""
    array = np.concatenate([np.zeros((12, 1, 4), int), routing(12, 1)], axis=1)
    with pytest.raises(
        InvalidTrace, match=r"column 0 holds no choice of experts, like that of a layer without a router: .*layers="
    ):
        taken(array)
    assert (taken(array, layers=[0, 1], sites=okr.discover(SMALL_MODEL)[:1])[:, 0] == array[:, 1]).all()
    unfilled = taken(array, layers=[1, 2])  # of a worker that filled the second only
    assert (unfilled[:, 0] == -1).all()
    assert (unfilled[:, 1] == array[:, 1]).all()
    assert (taken(np.zeros((12, 2, 4), int)) == -1).all()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_token_ids_may_be_of_any_type(kind):
    tokens = np.arange(5, 18, dtype=kind)
    trace = Trace.from_routed_experts(tokens, routing(12, 2), model=SMALL_MODEL)
    assert trace.token_ids.tolist() == tokens.tolist()
    assert trace.token_ids.dtype == np.int32


def test_the_first_token_may_be_a_number_of_numpy():
    array = routing(6, 2)
    assert (taken(array, first=np.int64(4), tokens=range(3, 14))[4:] == array).all()


def test_one_token_over_and_over_may_route_the_same(caplog):
    array = routing(20, 2)
    array[8:14] = array[8]
    tokens = np.arange(3, 24)
    tokens[10:16] = 7  # row 0 is token 2
    assert (taken(array[:18], tokens=tokens, first=2)[2:] == array[:18]).all()
    assert warned(caplog) == []


def test_a_single_choice_of_one_expert_may_repeat_itself(caplog):
    """Few sites and k = 1: runs and zeros are routing."""
    model = random_deepseek(num_experts_per_tok=1)
    array = routing(12, 2, k=1)
    array[2:7] = [[3], [4]]
    array[9] = 0
    array[11] = 5
    one = taken(array[:, :1], model=model, sites=okr.discover(model)[:1])
    assert (one == array[:, :1]).all()
    assert warned(caplog) == []
    assert (taken(array, model=model) == array).all()
    assert warned(caplog) == []
