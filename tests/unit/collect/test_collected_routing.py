"""What collectors gather becomes the trace that the model itself records, however an engine cut it up."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_models import random_deepseek

import okr
from okr import InvalidTrace, Trace
from okr.baking import HEADER_FILE, Gate, Header, find_gates
from okr.collect import Routing

MODEL = random_deepseek()
LAYERS, PROMPT = (1, 2), 6
KINDS = st.sampled_from([np.int16, np.int32, np.int64, np.uint8, np.uint32])
EXPERTS = st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 4)).flatmap(
    lambda shape: KINDS.flatmap(lambda kind: arrays(kind, shape, elements=st.integers(0, 100)))
)
"""Experts [tokens, layers, k]."""


@pytest.fixture(scope="module")
def own() -> Trace:
    """What the model recorded itself."""
    with okr.record(MODEL) as session:
        ids, options = torch.arange(20, 20 + PROMPT)[None], {"max_new_tokens": 8, "min_new_tokens": 8}
        return session.generate(ids, do_sample=False, **options).traces[0]


def collected(experts: np.ndarray, layers: tuple[int, ...], ends: list[int] | None = None) -> Routing:
    """``experts`` [tokens, layers, k] as an engine gives them: passes that stop at ``ends``, layer after layer."""
    routing, stops = Routing(), sorted({*(ends or []), len(experts)})
    for begin, end in zip([0, *stops], stops, strict=False):
        for column, layer in enumerate(layers):
            routing.add(layer, experts[begin:end, column])
    return routing


@given(experts=EXPERTS, data=st.data())
def test_passes_of_any_length_give_the_same(experts: np.ndarray, data: st.DataObject) -> None:
    layers = tuple(data.draw(st.permutations(range(5))))[: experts.shape[1]]
    ends = data.draw(st.lists(st.integers(0, len(experts))))
    routing = collected(experts, layers, ends)
    assert routing.layers == sorted(layers)
    assert (routing.array() == experts[:, np.argsort(layers)]).all()


@given(first=EXPERTS, data=st.data())
def test_an_engine_may_go_back_any_number_of_times(first: np.ndarray, data: st.DataObject) -> None:
    kept, layers = first, tuple(range(first.shape[1]))
    routing = collected(first, layers, data.draw(st.lists(st.integers(0, len(first)))))
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(kept) + 1))
        again = data.draw(
            arrays(np.int64, (data.draw(st.integers(1, 4)), *first.shape[1:]), elements=st.integers(0, 9))
        )
        routing.keep(begin)
        for layer in layers:
            routing.add(layer, again[:, layer].tolist())
        kept = np.concatenate((kept[:begin], again))
        assert (routing.array() == kept).all()


@pytest.mark.parametrize("forget", [lambda routing: routing.keep(0), Routing.clear])
def test_nothing_is_left_of_another_sequence(forget: Any, own: Trace) -> None:
    routing = collected(own.experts, LAYERS)
    forget(routing)
    assert routing.layers == []
    with pytest.raises(InvalidTrace, match="within the block"):
        routing.array()
    for layer in LAYERS:
        routing.add(layer, own.experts[:, layer - 1])
    assert (routing.array() == own.experts).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_the_trace_is_the_one_that_the_model_records(own: Trace, rows: int) -> None:
    """With or without a row for the last token, which was only an output."""
    experts = np.concatenate((own.experts, own.experts[:rows]))
    trace = collected(experts, LAYERS, [PROMPT, PROMPT + 1]).trace(own.token_ids, model=MODEL, prompt_length=PROMPT)
    assert trace.header == own.header
    assert (trace.experts == own.experts).all()
    assert (trace.token_ids == own.token_ids).all()
    assert trace.prompt_length == PROMPT


def test_two_sequences_in_one_block_are_refused(own: Trace) -> None:
    """The second's trace would get the first's experts."""
    routing = collected(np.concatenate((own.experts, own.experts)), LAYERS)
    with pytest.raises(InvalidTrace, match="one sequence only"):
        routing.trace(own.token_ids, model=MODEL, prompt_length=PROMPT)


def test_layers_without_a_site_do_not_matter(own: Trace) -> None:
    experts = np.insert(own.experts, 2, 0, axis=1)
    trace = collected(experts, (*LAYERS, 9)).trace(own.token_ids, model=MODEL, prompt_length=PROMPT)
    assert (trace.experts == own.experts).all()


@given(lost=st.integers(1, 12), layer=st.sampled_from(LAYERS))
def test_a_pass_that_was_broken_off_is_refused(own: Trace, lost: int, layer: int) -> None:
    routing = collected(own.experts[:-lost], LAYERS)
    with pytest.raises(InvalidTrace, match="were collected, but 14 are given"):
        routing.trace(own.token_ids, model=MODEL, prompt_length=PROMPT)
    routing.add(layer, own.experts[-lost:, layer - 1])
    with pytest.raises(InvalidTrace, match="one sequence at a time"):
        routing.trace(own.token_ids, model=MODEL, prompt_length=PROMPT)


def test_two_sequences_at_once_are_refused(own: Trace) -> None:
    """An engine that batches them runs the last layer only for the tokens whose logits are asked for."""
    routing = collected(np.concatenate((own.experts, own.experts)), LAYERS[:1])
    routing.add(2, own.experts[:, 1])
    with pytest.raises(InvalidTrace, match="one sequence at a time"):
        routing.array()


GOOD = [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "hostile",
    [
        [0, 1, 2, 3],
        [[[0, 1, 2, 3]]],
        [[0, 1, 2]],
        [[0, 1, 2, 3], [0, 1]],
        [[0.0, 1.0, 2.0, 3.0]],
        [["0", "1", "2", "3"]],
        [[None, 1, 2, 3]],
        [[False, True, True, False]],
        [],
        torch.zeros(1, 4, dtype=torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["first", "second", "other layer"])
def test_what_are_no_experts_is_refused_in_one_line(hostile: Any, place: str) -> None:
    routing = Routing()
    if place in ("second", "other layer"):
        routing.add(1, GOOD)
    routing.add(2 if place == "other layer" else 1, hostile)
    if place == "first":
        routing.add(1, GOOD)
    with pytest.raises(InvalidTrace) as refusal:
        routing.array()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("wrong", [16, 2**40])
def test_experts_that_the_model_lacks_are_refused(wrong: int) -> None:
    tokens, routing = random_routing()
    experts = routing.array()
    experts[3, 1, 2] = wrong
    with pytest.raises(InvalidTrace, match=f"expert {wrong} "):
        collected(experts, LAYERS).trace(tokens, model=MODEL, prompt_length=PROMPT)


def test_fewer_experts_than_the_routers_keep_are_refused() -> None:
    tokens, routing = random_routing()
    with pytest.raises(InvalidTrace, match="3 experts for a token, but the routers keep 4"):
        collected(routing.array()[..., :3], LAYERS).trace(tokens, model=MODEL, prompt_length=PROMPT)


@pytest.fixture
def baked(deepseek_folder: Path, tmp_path: Path) -> Path:
    """A folder with the header of a baked checkpoint."""
    folder = tmp_path / "baked"
    shutil.copytree(deepseek_folder, folder)
    measured = {"norm": 5.0, "sha256": "0" * 64}
    gates = [Gate(**gate.model_dump(), parameter=gate.tensor, **measured) for gate in find_gates(deepseek_folder)]
    header = Header(model="small", key_id="0123456789abcdef", strength=0.25, tag="1" * 64, gates=tuple(gates))
    (folder / HEADER_FILE).write_text(header.model_dump_json())
    return folder


def random_routing() -> tuple[list[int], Routing]:
    """Tokens, and experts for them at both layers."""
    draws = np.random.default_rng(0)
    return list(range(30)), collected(np.argsort(draws.random((30, 2, 16)))[..., :4], LAYERS)


def test_the_trace_of_a_baked_folder_names_its_key_and_setting(baked: Path, deepseek_folder: Path) -> None:
    tokens, routing = random_routing()
    header = routing.trace(tokens, model=str(baked), prompt_length=PROMPT).header
    assert (header.key_id, header.strength) == ("0123456789abcdef", 0.25)
    assert (header.zone, header.epsilon) == ("boundary", math.inf)
    plain = routing.trace(tokens, model=str(deepseek_folder), prompt_length=PROMPT).header
    assert plain.key_id is None
    assert plain.model.structure == header.model.structure


def test_what_is_given_counts_before_the_folder(baked: Path) -> None:
    tokens, routing = random_routing()
    given = {"key_id": "f" * 16, "strength": 0.5, "zone": "max", "epsilon": 1.0}
    header = routing.trace(tokens, model=str(baked), prompt_length=PROMPT, **given).header
    assert {name: getattr(header, name) for name in given} == given


def test_a_damaged_header_is_refused(baked: Path) -> None:
    tokens, routing = random_routing()
    written = json.loads((baked / HEADER_FILE).read_text())
    (baked / HEADER_FILE).write_text(json.dumps(written | {"strength": -1.0}))
    with pytest.raises(okr.InvalidConfig, match="strength"):
        routing.trace(tokens, model=str(baked), prompt_length=PROMPT)
