"""A response may come from an attacker: whatever it holds gives a consistent trace or InvalidTrace."""

import base64
import copy
import io
import json
import math
import pickle
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import random_deepseek

from okr import InvalidTrace, Trace

MODEL = random_deepseek()
RNG = np.random.default_rng(0)
EXPERTS = np.argsort(RNG.random((7, 3, 16)), -1)[:, :, :4].astype(np.int32)
EXPERTS[:, 0] = 0
NESTED: Any = [1]
for _ in range(900):
    NESTED = [NESTED]


def packed(array: Any, **options: Any) -> str:
    file = io.BytesIO()
    np.save(file, array, **options)
    return base64.b64encode(file.getvalue()).decode()


def with_header(header: str, content: bytes = b"") -> str:
    """base64 of NumPy's format with this header."""
    raw = header.encode() + b"\n"
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + content).decode()


VLLM: dict[str, Any] = {
    "choices": [{"prompt_token_ids": [5, 6, 7], "token_ids": [8, 9, 10, 11], "routed_experts": packed(EXPERTS)}],
    "okr_key_id": "0123456789abcdef",
    "okr_setting": {"zone": "boundary", "epsilon": "inf", "strength": 0.1},
}
SGLANG: dict[str, Any] = {
    "input_ids": [5, 6, 7],
    "output_ids": [8, 9, 10, 11],
    "meta_info": {"routed_experts": base64.b64encode(EXPERTS.tobytes()).decode()},
    "okr_key_id": "0123456789abcdef",
    "okr_setting": {"zone": "max", "epsilon": 1.0, "strength": "inf"},
}


def holds(response: Any, **options: Any) -> str | None:
    """What is said against ``response``, or None if it is a trace that a file can hold."""
    try:
        trace = Trace.from_response(response, model=MODEL, **options)
    except InvalidTrace as error:
        said = str(error)
    else:
        check(trace)
        return None
    assert "\n" not in said
    assert len(said) < 1000
    return said


def check(trace: Trace) -> None:
    assert type(trace.prompt_length) is int
    assert trace.experts.shape == (len(trace.token_ids) - 1, 2, 4)
    assert trace.header.model_validate_json(trace.header.model_dump_json()) == trace.header
    assert len(trace.digest()) == 32


def test_the_valid_ones_are_traces() -> None:
    assert holds(VLLM) is None
    assert holds(SGLANG) is None


NAMES = ["choices", "outputs", "token_ids", "prompt_token_ids", "routed_experts", "sglext", "meta_info", "input_ids"]
NAMES += ["output_ids", "okr_key_id", "okr_setting", "zone", "epsilon", "strength"]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), -(2**32) + 5, 10**400, math.inf, -math.inf, math.nan, -0.0, 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["inf", "nan", "boundary", "\ud800", "0123456789abcdef\n", "AAAA", "k05VTVBZ", NAMES[4]]),
    st.binary(max_size=40).map(lambda content: base64.b64encode(content).decode()),
    st.binary(max_size=40).map(lambda content: base64.b64encode(b"\x93NUMPY" + content).decode()),
    st.lists(st.integers(0, 20), max_size=9),
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS)
def test_any_document_is_a_trace_or_refused(document: Any) -> None:
    holds(document)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a document."""
    listed = document if isinstance(document, list) else ()
    inner = document.items() if isinstance(document, dict) else enumerate(listed)
    return [found for name, part in inner for found in [(*path, name), *places(part, (*path, name))]]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([VLLM, SGLANG]), st.data())
def test_any_mutation_of_a_response_is_a_trace_or_refused(valid: dict[str, Any], data: st.DataObject) -> None:
    response = copy.deepcopy(valid)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(response)))
        part = response
        for name in path:
            part = part[name]
        if data.draw(st.booleans()) and isinstance(part, dict):
            del part[last]
        else:
            part[last] = data.draw(DOCUMENTS)
        if not places(response):
            break
    holds(response, choice=data.draw(st.sampled_from([0, 0, 1, -1])))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_to_the_bytes_of_the_experts_is_a_trace_or_refused(data: st.DataObject) -> None:
    content = bytearray(base64.b64decode(VLLM["choices"][0]["routed_experts"]))
    for place in data.draw(st.lists(st.integers(6, 140), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    holds(with_experts(base64.b64encode(bytes(content[: data.draw(st.integers(6, len(content)))])).decode()))


def with_experts(experts: Any) -> dict[str, Any]:
    response = copy.deepcopy(VLLM)
    response["choices"][0]["routed_experts"] = experts
    return response


class Mark:
    """Unpickled, it leaves a mark."""

    made: list[int] = []  # noqa: RUF012 - that is the mark

    def __reduce__(self) -> Any:
        return (Mark.made.append, (1,))


@pytest.mark.parametrize(
    "experts",
    [
        base64.b64encode(pickle.dumps([Mark()])).decode(),
        packed(np.array([[[Mark()] * 4] * 3] * 7, object), allow_pickle=True),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (7, 3, 4)}", pickle.dumps(Mark())),
        base64.b64encode(b"\x93NUMPY" + pickle.dumps(Mark())).decode(),
    ],
    ids=count(),
)
def test_a_pickle_is_never_opened(experts: str) -> None:
    assert holds(with_experts(experts))
    assert not Mark.made


@pytest.mark.parametrize(
    "shape",
    ["(2**40,)", "(1099511627776, 3, 4)", "(4611686018427387904, 4)", f"({10**30},)", f"({'9' * 5000},)", "(-7, 3, 4)",
     "(0, 4611686018427387904, 4)", "(7, 3, 0)", "(True, 3, 4)", "7", "('7',)", "(7,) * 3", "None"],
    ids=count(),
)  # fmt: skip
def test_a_header_that_promises_too_much(shape: str) -> None:
    assert holds(with_experts(with_header(f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}}}", b"\0" * 64)))


@pytest.mark.parametrize(
    "header",
    ["", "(", "{'descr': '<i4'", "{'descr': ['<i4'], 'fortran_order': False, 'shape': (1,)}", "'", "{[]: 1}",
     "9" * 5000, "(" * 5000, "-" * 8000 + "1", "{'descr': '|V2147483647', 'fortran_order': False, 'shape': (1,)}",
     "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (0,)}", "\0", "{'descr': '<U0', 'fortran_order': 0}",
     "{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000, 3, 4)}"],
    ids=count(),
)  # fmt: skip
def test_a_header_that_is_none(header: str) -> None:
    assert holds(with_experts(with_header(header)))


@pytest.mark.parametrize(
    "experts",
    ["", "AAA", "Aé==", "====", "AAAA", "AAAA\n", packed(EXPERTS)[:-4], packed(EXPERTS)[:60],
     packed(EXPERTS).swapcase(),
     packed(EXPERTS.astype(float)), packed(EXPERTS.astype(complex)), packed(EXPERTS + 14), packed(EXPERTS - 9),
     packed(EXPERTS.astype("datetime64[s]")), packed(EXPERTS.astype("U2")), packed(EXPERTS[..., :3]),
     [[1], [1, 2]],
     packed(EXPERTS[:, :2].reshape(-1)[:-1]), [[[2**70] * 4] * 3] * 7, {"data": []}, NESTED, 5, True, [], [[[]]],
     b"AAAA", [[["1"] * 4] * 3] * 7, packed(EXPERTS.astype(bool)), packed(EXPERTS + 2**16)],
    ids=count(),
)  # fmt: skip
def test_experts_that_are_none(experts: Any) -> None:
    assert holds(with_experts(experts))


@pytest.mark.parametrize(
    "tokens",
    [[2**31, 1, 2, 3], [2**63, 1, 2, 3], [2**70, 1, 2, 3], [10**5000, 1, 2, 3], [-1, 1, 2, 3], [-(2**32) + 5, 1, 2, 3],
     [-(2**63), 2**63, 2, 3], [1.0, 2.0, 3.0, 4.0], [True, 1, 2, 3], ["1", 1, 2, 3], "1234", b"1234", {"0": 1}, 8, 8.5,
     [[1, 2, 3, 4]], [1, 2, 3, None], NESTED, np.array(5), np.ones((4, 1), int), np.ones(4)],
    ids=count(),
)  # fmt: skip
@pytest.mark.parametrize("name", ["token_ids", "prompt_token_ids"])
def test_tokens_that_are_none(name: str, tokens: Any) -> None:
    response = copy.deepcopy(VLLM)
    response["choices"][0][name] = tokens
    assert holds(response)


@pytest.mark.parametrize(
    "told",
    [{"okr_setting": {"epsilon": value}} for value in (math.nan, -1, -math.inf, "1", "infinity", [], {}, [math.inf])]
    + [{"okr_setting": {"strength": value}} for value in (math.nan, -0.5, "x", [[]])]
    + [{"okr_setting": {"zone": value}} for value in ("middle", "inf", 1, [], {"a": 1}, "\ud800")]
    + [
        {"okr_key_id": value}
        for value in ("", "inf", "x" * 16, "0" * 17, 5, ["0" * 16], "\ud800" * 16, "0" * 16 + "\n")
    ],
)
def test_what_is_said_of_the_key_is_checked(told: dict[str, Any]) -> None:
    said = holds(VLLM | told)
    assert said is not None
    assert said.startswith("header field ")


@pytest.mark.parametrize("setting", [None, [], "boundary", 5, {}, {"other": NESTED}])
def test_a_setting_that_says_nothing_is_none(setting: Any) -> None:
    assert holds(VLLM | {"okr_setting": setting}) is None


def test_nesting_as_deep_as_json_can_be_read() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    for name in ("choices", "outputs", "meta_info", "okr_setting", "okr_key_id", "sglext"):
        holds({name: deep})
        holds(VLLM | {name: deep})
        holds(SGLANG | {name: {"routed_experts": deep}})
