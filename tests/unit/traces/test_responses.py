"""Answers of serving engines: what they hold becomes a trace, and whatever else they hold is refused."""

import base64
import copy
import io
import json
import math
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from small_models import random_deepseek

import okr
from okr import InvalidTrace, Trace

MODEL = random_deepseek()
SITES = [site for site in okr.discover(MODEL) if site.keyable]
K, E = SITES[0].top_k, SITES[0].num_experts
PROMPT, NEW = [3, 4, 5], [6, 7, 8, 9]
ROWS = np.stack(
    [
        np.stack([np.random.default_rng(9 * row + column).permutation(E)[:K] for column in range(len(SITES))])
        for row in range(len(PROMPT) + len(NEW) - 1)
    ]
).astype(np.uint8)


def encoded(array: np.ndarray, **options: Any) -> str:
    file = io.BytesIO()
    np.save(file, array, **options)
    return base64.b64encode(file.getvalue()).decode()


def completion() -> dict[str, Any]:
    choice = {"index": 0, "prompt_token_ids": PROMPT, "token_ids": NEW, "routed_experts": encoded(ROWS)}
    setting = {"zone": "boundary", "epsilon": "inf", "strength": 0.1}
    return {"id": "cmpl-1", "choices": [choice], "okr_key_id": "0" * 16, "okr_setting": setting}


class Loose(BaseModel):
    """An answer of a client that keeps fields which it does not know."""

    model_config = ConfigDict(extra="allow")


def chat() -> dict[str, Any]:
    document = completion()
    document["prompt_token_ids"] = document["choices"][0].pop("prompt_token_ids")
    return document


def sglang() -> dict[str, Any]:
    experts = base64.b64encode(ROWS.astype("<i4").tobytes()).decode()
    about = {"routed_experts": experts}
    return {"input_ids": PROMPT, "output_ids": NEW, "meta_info": about, "okr_key_id": "0" * 16} | {
        "okr_setting": completion()["okr_setting"]
    }


def of_vllm() -> Any:
    output = SimpleNamespace(token_ids=tuple(NEW), routed_experts=ROWS)
    return SimpleNamespace(prompt_token_ids=PROMPT, outputs=[output])


@pytest.mark.parametrize("form", [completion, chat, lambda: Loose(**completion()), sglang, of_vllm])
def test_every_form_gives_the_same_trace(form: Any) -> None:
    header = {"key_id": "0" * 16, "zone": "boundary", "epsilon": math.inf, "strength": 0.1} if form is of_vllm else {}
    layers = [site.layer for site in SITES]
    trace = Trace.from_response(form(), model=MODEL, layers=layers, **header)
    assert trace.token_ids.tolist() == PROMPT + NEW
    assert trace.prompt_length == len(PROMPT)
    assert (trace.experts == ROWS).all()
    assert trace.header.key_id == "0" * 16
    assert (trace.header.zone, trace.header.epsilon, trace.header.strength) == ("boundary", math.inf, 0.1)


def test_what_the_caller_says_replaces_what_the_answer_says() -> None:
    assert Trace.from_response(completion(), model=MODEL, strength=2.0).header.strength == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("choices"), "no choices"),
        (lambda d: d["choices"].clear(), "no choices"),
        (lambda d: d["choices"][0].pop("token_ids"), "return_token_ids"),
        (lambda d: d["choices"][0].pop("routed_experts"), "no routed_experts"),
        (lambda d: d["choices"][0].update(token_ids="abc"), "whole numbers"),
        (lambda d: d["choices"][0].update(token_ids=[True]), "whole numbers"),
        (lambda d: d["choices"][0].update(token_ids=[1 << 70]), "token"),
        (lambda d: d["choices"][0].update(routed_experts="?"), "base64"),
        (lambda d: d["choices"][0].update(routed_experts=encoded(ROWS)[:60]), "base64"),
        (lambda d: d["choices"][0].update(routed_experts=encoded(np.array([{}]), allow_pickle=True)), "base64"),
        (lambda d: d["choices"][0].update(routed_experts=encoded(ROWS[:2])), "first="),
        (lambda d: d["choices"][0].update(routed_experts=[[1], [1, 2]]), "array"),
        (lambda d: d.update(okr_key_id="me"), "key_id"),
        (lambda d: d.update(okr_setting={"strength": "nan"}), "strength"),
        (lambda d: d.update(okr_setting={"strength": math.nan}), "strength"),
    ],
)
def test_what_lacks_a_part_is_refused(change: Any, message: str) -> None:
    document = completion()
    change(document)
    with pytest.raises(InvalidTrace, match=message):
        Trace.from_response(document, model=MODEL)


def test_a_choice_that_is_not_there_is_refused() -> None:
    for choice in (1, -1, True, "0"):
        with pytest.raises(InvalidTrace, match="no number"):
            Trace.from_response(completion(), model=MODEL, choice=choice)


def test_an_object_of_another_kind_is_refused() -> None:
    for answer in (None, 3, "text", [completion()]):
        with pytest.raises(InvalidTrace):
            Trace.from_response(answer, model=MODEL)


def test_nothing_in_an_answer_is_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("it was unpickled",))

    document = completion()
    for content in (pickle.dumps(Bomb()), b"\x93NUMPY\x01\x00" + pickle.dumps(Bomb())):
        document["choices"][0]["routed_experts"] = base64.b64encode(content).decode()
        with pytest.raises(InvalidTrace):
            Trace.from_response(document, model=MODEL)


def test_an_array_that_says_it_is_huge_is_refused() -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 3, 6), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    document = completion()
    document["choices"][0]["routed_experts"] = base64.b64encode(content).decode()
    with pytest.raises(InvalidTrace):
        Trace.from_response(document, model=MODEL)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
documents = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
PLACES = [
    ("choices",), ("choices", 0), ("choices", 0, "token_ids"), ("choices", 0, "prompt_token_ids"),
    ("choices", 0, "routed_experts"), ("okr_key_id",), ("okr_setting",), ("okr_setting", "epsilon"),
]  # fmt: skip


@given(place=st.sampled_from(PLACES), value=documents)
def test_whatever_stands_in_an_answer_gives_a_trace_or_is_refused(place: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(completion())
    inner: Any = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    try:
        trace = Trace.from_response(document, model=MODEL)
    except InvalidTrace:
        return
    assert trace.token_ids.tolist()[: len(PROMPT)] == PROMPT or place[-1] == "prompt_token_ids"


def test_an_answer_survives_json() -> None:
    trace = Trace.from_response(json.loads(json.dumps(completion())), model=MODEL)
    assert trace.digest() == Trace.from_response(completion(), model=MODEL).digest()
