"""Chapter TRACE: the answers of serving engines, as a whole."""

import base64
import copy
import io
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_arrays import LAYERS, ROUTERS, TOKENS, rows_of

PROMPT = 4
_ABOUT = {"okr_key_id": "0123456789abcdef", "okr_setting": {"zone": "boundary", "epsilon": "inf", "strength": 0.5}}
_NAMED = {"key_id": "0123456789abcdef", "zone": "boundary", "epsilon": float("inf"), "strength": 0.5}


def _chosen(seed: int = 0) -> Any:
    """What ran for all but the last token, [tokens, routers, k]."""
    return rows_of(np.random.default_rng(seed), TOKENS - 1, 2)


def _columns(seed: int = 0) -> Any:
    """The same with a column for each layer, uint8."""
    found = np.zeros((TOKENS - 1, LAYERS, 2), np.uint8)
    found[:, ROUTERS] = _chosen(seed)
    return found


def packed(array: Any, version: tuple[int, int] | None = None) -> str:
    """Base64 of NumPy's format."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return base64.b64encode(file.getvalue()).decode()


def _flat(array: Any) -> str:
    """Base64 of int32, as SGLang writes it."""
    return base64.b64encode(np.asarray(array).astype("<i4").tobytes()).decode()


def _ids(seed: int = 0) -> list[int]:
    return [*range(30 + seed, 30 + seed + TOKENS)]


def _choice(seed: int = 0) -> dict[str, Any]:
    ids = _ids(seed)
    experts = packed(_columns(seed))
    return {"prompt_token_ids": ids[:PROMPT], "token_ids": ids[PROMPT:], "routed_experts": experts, "text": ""}


def _completion() -> dict[str, Any]:
    return {"id": "one", "choices": [_choice()], **_ABOUT}


def _chat() -> dict[str, Any]:
    made = _completion()
    made["prompt_token_ids"] = made["choices"][0].pop("prompt_token_ids")
    return made


def _generate() -> dict[str, Any]:
    ids = _ids()
    about = {"routed_experts": _flat(_columns()), "prompt_tokens": PROMPT}
    return {"text": "", "input_ids": ids[:PROMPT], "output_ids": ids[PROMPT:], "meta_info": about, **_ABOUT}


def _extended() -> dict[str, Any]:
    made = _chat()
    del made["choices"][0]["routed_experts"]
    return made | {"sglext": {"routed_experts": _flat(_columns())}}


def _objects() -> Any:
    """Objects with attributes, arrays and tuples instead of JSON."""
    answer = SimpleNamespace(token_ids=tuple(_ids()[PROMPT:]), routed_experts=_columns(), text="")
    return SimpleNamespace(prompt_token_ids=np.array(_ids()[:PROMPT]), outputs=[answer], request_id="1", **_ABOUT)


class _Other(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    def __iter__(self) -> Any:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _of_client() -> Any:
    """A pydantic object that keeps fields it does not know, as the ``openai`` package's do."""
    from pydantic import BaseModel, ConfigDict

    class Extra(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Response(Extra):
        choices: list[Extra]

    return Response.model_validate(_completion())


def _forms() -> dict[str, Any]:
    listed = _completion()
    listed["choices"][0]["routed_experts"] = _columns().tolist()
    return {
        "a completion": _completion(),
        "a chat": _chat(),
        "an answer of generate": _generate(),
        "a chat with an extension": _extended(),
        "objects": _objects(),
        "an object of a client": _of_client(),
        "another mapping": _Other(_completion()),
        "lists of experts": listed,
        "a tuple of choices": {**_completion(), "choices": (_Other(_choice()),)},
    }


def _traced(response: Any, **options: Any) -> Any:
    from .. import system
    from ..system import okr

    return okr.Trace.from_response(response, model=system.mixed_model(), **options)


def _require(what: str, trace: Any, chosen: Any, ids: list[int], header: dict[str, Any]) -> None:
    require(trace.token_ids.tolist() == ids, f"{what}: token ids", expected=ids, got=trace.token_ids)
    require(trace.prompt_length == PROMPT, f"{what}: length of the prompt", expected=PROMPT, got=trace.prompt_length)
    require(trace.experts.tolist() == chosen.tolist(), f"{what}: experts", expected=chosen, got=trace.experts)
    got = {name: getattr(trace.header, name) for name in _NAMED}
    expected = dict.fromkeys(_NAMED) | header
    require(got == expected, f"{what}: header", expected=expected, got=got)


@check("OKR-TRACE-010")
def answers_are_read_in_every_form(subject: Subject) -> None:
    from .. import system

    with system.accepted("an answer"):
        for what, response in _forms().items():
            _require(what, _traced(response), _chosen(), _ids(), _NAMED)


@check("OKR-TRACE-010")
def parts_of_answers_are_found(subject: Subject) -> None:
    """The answer that is asked for, a flat array of named or of all layers, and what is known of the key."""
    from .. import system

    two = {"choices": [_choice(), _choice(1)], "prompt_token_ids": [1, 2]}
    flat = _generate()
    flat["meta_info"]["routed_experts"] = _flat(_chosen())
    bare = _completion()
    del bare["okr_key_id"], bare["okr_setting"]
    short = _generate()
    short["meta_info"]["routed_experts"] = _flat(_columns()[2:])
    odd = {**bare, "okr_setting": "none", "okr_key_id": None}
    partial = {**bare, "okr_setting": {"epsilon": 0.25, "zone": None, "other": 7}}
    with system.accepted("an answer"):
        for number in (0, 1):
            found = _traced(two, choice=number)
            _require(f"answer {number}", found, _chosen(number), _ids(number), {})
        _require("a flat array", _traced(flat, layers=ROUTERS), _chosen(), _ids(), _NAMED)
        _require("an answer without a key", _traced(bare), _chosen(), _ids(), {})
        _require("a setting that is a text", _traced(odd), _chosen(), _ids(), {})
        _require("a part of a setting", _traced(partial), _chosen(), _ids(), {"epsilon": 0.25})
        named = _traced(_completion(), zone="max", key_id=None)
        _require("what is named here", named, _chosen(), _ids(), {**_NAMED, "zone": "max", "key_id": None})
        later = _chosen()
        later[:2] = -1
        _require("rows after a cached prefix", _traced(short, first=2), later, _ids(), _NAMED)


def _with(change: Any, made: dict[str, Any] | None = None) -> dict[str, Any]:
    made = copy.deepcopy(_completion() if made is None else made)
    change(made)
    return made


def _experts(value: Any) -> dict[str, Any]:
    return _with(lambda made: made["choices"][0].update(routed_experts=value))


def _told(value: Any) -> dict[str, Any]:
    return _with(lambda made: made["meta_info"].update(routed_experts=value), _generate())


def _header_of_numpy(text: str) -> str:
    start = text.encode().ljust(117) + b"\n"
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(start).to_bytes(2, "little") + start + bytes(64)).decode()


def _wrong() -> dict[str, Any]:
    plain, generate = _completion(), _generate()
    tokens = {
        "a text": "123",
        "bytes": b"123",
        "a number": 7,
        "texts": ["1", "2"],
        "truths": [True, False],
        "broken numbers": [1.0, 2.0],
        "a matrix": np.ones((2, 2), np.int64),
        "a number below 0": [-1, 2],
        "a number of 2^31": [2**31, 2],
    }
    found: dict[str, Any] = {
        "nothing": None,
        "a text": "answer",
        "a list": [plain],
        "an empty object": {},
        "no choices": {**plain, "choices": []},
        "choices that are a text": {**plain, "choices": "choices"},
        "choices that are bytes": {**plain, "choices": b"choices"},
        "choices that are an object": {**plain, "choices": {"0": _choice()}},
        "a choice that is a number": {**plain, "choices": [7]},
        "no token ids": _with(lambda made: made["choices"][0].pop("token_ids")),
        "no token ids of the prompt": _with(lambda made: made["choices"][0].pop("prompt_token_ids")),
        "no experts": _with(lambda made: made["choices"][0].pop("routed_experts")),
        "an extension that is a text": _with(lambda made: made.update(sglext="x"), _extended()),
        "no input ids": _with(lambda made: made.pop("input_ids"), generate),
        "no output ids": _with(lambda made: made.pop("output_ids"), generate),
        "meta_info that is a text": _with(lambda made: made.update(meta_info="x"), generate),
        "meta_info without experts": _with(lambda made: made["meta_info"].pop("routed_experts"), generate),
        "experts that are no base64": _experts("*" + packed(_columns())[1:]),
        "experts of base64 between other signs": _experts(packed(_columns())[:40] + "-_" + packed(_columns())[40:]),
        "experts cut short": _experts(packed(_columns())[:120]),
        "experts of no bytes": _experts(""),
        "experts in rows of different lengths": _experts([[[1, 2]], [[1]]]),
        "experts that are floats": _experts(packed(_columns().astype(np.float32))),
        "experts that are objects": _experts(
            _header_of_numpy("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}")
        ),
        "experts beyond memory": _experts(
            _header_of_numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (9999999999999,)}")
        ),
        "experts with a header that is none": _experts(_header_of_numpy("{[(")),
        "experts of three bytes": _told(base64.b64encode(b"abc").decode()),
        "experts that do not divide": _told(_flat(_columns().ravel()[:-1])),
        "experts that divide by one layer less": _told(_flat(_columns()[:, 1:])),
        "experts of too many tokens": _told(_flat(np.concatenate([_columns()] * 2))),
        "a key id that is none": {**plain, "okr_key_id": "mine"},
        "a zone that is none": {**plain, "okr_setting": {"zone": "middle"}},
        "an epsilon below 0": {**plain, "okr_setting": {"epsilon": -1.0}},
        "a strength that is a text": {**plain, "okr_setting": {"strength": "strong"}},
    }
    for what, ids in tokens.items():
        found[f"a prompt of {what}"] = _with(lambda made, ids=ids: made["choices"][0].update(prompt_token_ids=ids))
        found[f"new tokens of {what}"] = _with(lambda made, ids=ids: made["choices"][0].update(token_ids=ids))
        found[f"an input of {what}"] = _with(lambda made, ids=ids: made.update(input_ids=ids), generate)
    return found


@check("OKR-TRACE-010")
def other_answers_are_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    for what, response in _wrong().items():
        with system.refused(okr.InvalidTrace, f"an answer: {what}"):
            _traced(response)
    for number in (-1, 1, True, 0.0, "0", None):
        with system.refused(okr.InvalidTrace, f"answer number {number!r}"):
            _traced(_completion(), choice=number)
    for layers in ([], [1], [0, 1, 3]):
        with system.refused(okr.InvalidTrace, f"a flat array of {len(layers)} named layers"):
            _traced(_generate(), layers=layers)


@check("OKR-TRACE-010")
def answers_through_json_are_the_same(subject: Subject) -> None:
    """A completion as text, with the largest and the smallest experts of each type of number."""
    from .. import system

    array = _columns()
    with system.accepted("an answer"):
        for kind in ("uint8", "int16", "int32", "int64", ">i4"):
            for version in (None, (2, 0)):
                made = _experts(packed(np.asfortranarray(array.astype(kind)), version))
                _require(f"{kind}", _traced(json.loads(json.dumps(made))), _chosen(), _ids(), _NAMED)
