"""Answers of serving engines become the traces that the model itself records, in every form that engines give them."""

import base64
import io
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict
from small_models import random_deepseek

import okr
from okr import InvalidTrace, Key, Trace
from okr.traces.responses import read

KEY = Key(bytes(range(32)))
PROMPT = 6
MODEL = random_deepseek()
SETTING = {"epsilon": math.inf, "zone": "boundary", "strength": 1.0}


@pytest.fixture(scope="module")
def own() -> Trace:
    """What the model recorded itself."""
    with okr.watermark(MODEL, KEY, **SETTING) as session:
        return session.generate(
            input_ids=torch.arange(20, 20 + PROMPT)[None], max_new_tokens=5, do_sample=False
        ).traces[0]


def columns(trace: Trace) -> np.ndarray:
    """The experts as vLLM returns them: a column for each layer, of which the first is dense."""
    found = np.zeros((len(trace.experts), 3, 4), np.uint8)
    found[:, 1:] = trace.experts
    return found


def packed(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def completion(trace: Trace) -> dict[str, Any]:
    """A completion of ``okr serve``, which is vLLM's with two fields more."""
    ids = trace.token_ids.tolist()
    return {
        "id": "cmpl-1",
        "choices": [
            {
                "index": 0,
                "text": "",
                "prompt_token_ids": ids[:PROMPT],
                "token_ids": ids[PROMPT:],
                "routed_experts": packed(columns(trace)),
            }
        ],
        "okr_key_id": KEY.id,
        "okr_setting": {"zone": "boundary", "epsilon": "inf", "strength": 1.0},
    }


def chat(trace: Trace) -> dict[str, Any]:
    response = completion(trace)
    response["prompt_token_ids"] = response["choices"][0].pop("prompt_token_ids")
    response["choices"][0]["message"] = {"role": "assistant", "content": ""}
    return response


class Extra(BaseModel):
    """An object of a client, which keeps the fields that it does not know."""

    model_config = ConfigDict(extra="allow")


class Response(Extra):
    choices: list[Extra]


def of_client(trace: Trace) -> Response:
    return Response.model_validate(completion(trace))


def of_vllm(trace: Trace) -> Any:
    ids = trace.token_ids.tolist()
    answer = SimpleNamespace(index=0, text="", token_ids=tuple(ids[PROMPT:]), routed_experts=columns(trace))
    made = completion(trace)
    return SimpleNamespace(
        request_id="1",
        prompt_token_ids=ids[:PROMPT],
        outputs=[answer],
        **{name: made[name] for name in ("okr_key_id", "okr_setting")},
    )


def of_sglang(trace: Trace) -> dict[str, Any]:
    """SGLang's ``/generate``, into which the prompt's ids were put: its experts are flat int32."""
    ids, made = trace.token_ids.tolist(), completion(trace)
    flat = base64.b64encode(columns(trace).astype("<i4").tobytes()).decode()
    return {
        "text": "",
        "input_ids": ids[:PROMPT],
        "output_ids": ids[PROMPT:],
        "meta_info": {"routed_experts": flat, "prompt_tokens": PROMPT},
        **{name: made[name] for name in ("okr_key_id", "okr_setting")},
    }


def chat_of_sglang(trace: Trace) -> dict[str, Any]:
    """SGLang's OpenAI-compatible answer has the experts in an extension."""
    response = chat(trace)
    del response["choices"][0]["routed_experts"]
    return response | {"sglext": {"routed_experts": of_sglang(trace)["meta_info"]["routed_experts"]}}


@pytest.mark.parametrize("form", [completion, chat, of_client, of_vllm, of_sglang, chat_of_sglang])
def test_every_form_gives_the_trace_that_the_model_recorded(form: Any, own: Trace) -> None:
    made = Trace.from_response(form(own), model=MODEL)
    assert made.header == own.header
    assert made.digest() == own.digest()
    assert made.prompt_length == PROMPT


def test_what_went_through_json_is_the_same(own: Trace) -> None:
    for form in (completion, chat, of_sglang):
        assert Trace.from_response(json.loads(json.dumps(form(own))), model=MODEL).digest() == own.digest()


def test_a_row_for_the_last_token_is_dropped(own: Trace) -> None:
    response = completion(own)
    rows = columns(own)
    response["choices"][0]["routed_experts"] = packed(np.concatenate([rows, rows[:1]]))
    assert Trace.from_response(response, model=MODEL).digest() == own.digest()


def test_the_answer_that_was_asked_for(own: Trace) -> None:
    """Every answer has its own tokens and experts; the prompt is that of all."""
    response = chat(own)
    rows = columns(own)
    shorter = {"token_ids": own.token_ids[PROMPT:-2].tolist(), "routed_experts": packed(rows[:-2])}
    response["choices"] = [shorter, response["choices"][0]]
    assert Trace.from_response(response, model=MODEL, choice=1).digest() == own.digest()
    first = Trace.from_response(response, model=MODEL)
    assert first.token_ids.tolist() == own.token_ids[:-2].tolist()
    assert (first.experts == own.experts[:-2]).all()


@pytest.mark.parametrize("choice", [1, -1, 7, True, 0.0, "0", None, 10**30])
def test_an_answer_that_is_not_there(choice: Any, own: Trace) -> None:
    with pytest.raises(InvalidTrace, match="has 1 choices and no number"):
        Trace.from_response(completion(own), model=MODEL, choice=choice)


def test_the_header_is_read_and_may_be_replaced(own: Trace) -> None:
    response = completion(own) | {"okr_setting": {"zone": "max", "epsilon": 2.5, "strength": "inf"}}
    header = Trace.from_response(response, model=MODEL).header
    assert (header.key_id, header.zone, header.epsilon, header.strength) == (KEY.id, "max", 2.5, math.inf)
    told = {"key_id": "0" * 16, "epsilon": 1.0}
    header = Trace.from_response(response, model=MODEL, **told).header
    assert (header.key_id, header.zone, header.epsilon, header.strength) == ("0" * 16, "max", 1.0, math.inf)
    for name in ("okr_key_id", "okr_setting"):
        del response[name]
    header = Trace.from_response(response, model=MODEL).header
    assert (header.key_id, header.zone, header.epsilon, header.strength) == (None, None, None, None)
    header = Trace.from_response(response, model=MODEL, **SETTING).header
    assert {name: getattr(header, name) for name in SETTING} == SETTING


def test_a_partial_setting_leaves_the_rest_unknown(own: Trace) -> None:
    header = Trace.from_response(completion(own) | {"okr_setting": {"epsilon": 1}}, model=MODEL).header
    assert (header.zone, header.epsilon, header.strength) == (None, 1.0, None)


def test_layers_say_what_the_columns_are(own: Trace) -> None:
    """Flat experts of the routed layers alone, in another order."""
    response = of_sglang(own)
    flat = own.experts[:, ::-1].astype("<i4").tobytes()
    response["meta_info"]["routed_experts"] = base64.b64encode(flat).decode()
    assert Trace.from_response(response, model=MODEL, layers=[2, 1]).digest() == own.digest()
    for wrong in (None, [], [1], 5, [1, "2"]):
        with pytest.raises(InvalidTrace):
            Trace.from_response(response, model=MODEL, layers=wrong)  # type: ignore[arg-type]


def test_rows_after_a_cached_prefix(own: Trace) -> None:
    response = completion(own)
    response["choices"][0]["routed_experts"] = packed(columns(own)[3:])
    made = Trace.from_response(response, model=MODEL, first=3)
    assert (made.experts[:3] == -1).all()
    assert (made.experts[3:] == own.experts[3:]).all()
    with pytest.raises(InvalidTrace, match="first="):
        Trace.from_response(response, model=MODEL)


@pytest.mark.parametrize(
    ("form", "lacking", "said"),
    [
        (completion, "token_ids", "return_token_ids"),
        (completion, "prompt_token_ids", "return_token_ids"),
        (completion, "routed_experts", "okr serve does"),
        (of_sglang, "input_ids", "as input_ids"),
        (of_sglang, "output_ids", "as input_ids"),
    ],
)
def test_what_is_lacking_is_said(form: Any, lacking: str, said: str, own: Trace) -> None:
    response = form(own)
    for part in (response, *response.get("choices", ())):
        part.pop(lacking, None)
    with pytest.raises(InvalidTrace, match=said):
        Trace.from_response(response, model=MODEL)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": "text"}, "no choices"),
        ({"choices": {"0": {}}}, "no choices"),
        ({"choices": [None]}, "a NoneType is no response"),
        ({"choices": ["text"]}, "a str is no response"),
        ({"meta_info": []}, "meta_info must be an object"),
        ([], "a list is no response"),
        ("{}", "a str is no response"),
        (None, "a NoneType is no response"),
    ],
)
def test_what_is_no_response(response: Any, said: str) -> None:
    with pytest.raises(InvalidTrace, match=said):
        read(response, 0)
