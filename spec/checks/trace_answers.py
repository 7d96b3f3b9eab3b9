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
NAMED = {"key_id": "0123456789abcdef", "zone": "boundary", "epsilon": float("inf"), "strength": 0.5}


def what_ran(seed: int = 0) -> Any:
    """What ran for all but the last token, [tokens, routers, k]."""
    return rows_of(np.random.default_rng(seed), TOKENS - 1, 2)


def layer_columns(seed: int = 0) -> Any:
    """The same with a column for each layer, uint8."""
    found = np.zeros((TOKENS - 1, LAYERS, 2), np.uint8)
    found[:, ROUTERS] = what_ran(seed)
    return found


def packed(array: Any, version: tuple[int, int] | None = None) -> str:
    """Base64 of NumPy's format."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return base64.b64encode(file.getvalue()).decode()


def int32_text(array: Any) -> str:
    """Base64 of int32, as SGLang writes it."""
    return base64.b64encode(np.asarray(array).astype("<i4").tobytes()).decode()


def ids_of(seed: int = 0) -> list[int]:
    """Token ids of a prompt and of what was generated."""
    return [*range(30 + seed, 30 + seed + TOKENS)]


def _choice(seed: int = 0) -> dict[str, Any]:
    ids = ids_of(seed)
    experts = packed(layer_columns(seed))
    return {"prompt_token_ids": ids[:PROMPT], "token_ids": ids[PROMPT:], "routed_experts": experts, "text": ""}


def a_completion() -> dict[str, Any]:
    """An answer as of vLLM's completions."""
    return {"id": "one", "choices": [_choice()], **_ABOUT}


def _chat() -> dict[str, Any]:
    made = a_completion()
    made["prompt_token_ids"] = made["choices"][0].pop("prompt_token_ids")
    return made


def a_generation() -> dict[str, Any]:
    """An answer of SGLang's ``/generate``."""
    ids = ids_of()
    about = {"routed_experts": int32_text(layer_columns()), "prompt_tokens": PROMPT}
    return {"text": "", "input_ids": ids[:PROMPT], "output_ids": ids[PROMPT:], "meta_info": about, **_ABOUT}


def _extended() -> dict[str, Any]:
    made = _chat()
    del made["choices"][0]["routed_experts"]
    return made | {"sglext": {"routed_experts": int32_text(layer_columns())}}


def _objects() -> Any:
    """Objects with attributes, arrays and tuples instead of JSON."""
    answer = SimpleNamespace(token_ids=tuple(ids_of()[PROMPT:]), routed_experts=layer_columns(), text="")
    return SimpleNamespace(prompt_token_ids=np.array(ids_of()[:PROMPT]), outputs=[answer], request_id="1", **_ABOUT)


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

    return Response.model_validate(a_completion())


def _forms() -> dict[str, Any]:
    listed = a_completion()
    listed["choices"][0]["routed_experts"] = layer_columns().tolist()
    return {
        "a completion": a_completion(),
        "a chat": _chat(),
        "an answer of generate": a_generation(),
        "a chat with an extension": _extended(),
        "objects": _objects(),
        "an object of a client": _of_client(),
        "another mapping": _Other(a_completion()),
        "lists of experts": listed,
        "a tuple of choices": {**a_completion(), "choices": (_Other(_choice()),)},
    }


def trace_of(response: Any, **options: Any) -> Any:
    """The trace of an answer of the mixed model."""
    from .. import system
    from ..system import okr

    return okr.Trace.from_response(response, model=system.mixed_model(), **options)


def require_answer(what: str, trace: Any, chosen: Any, ids: list[int], header: dict[str, Any]) -> None:
    """Violation unless a trace is that of an answer."""
    require(trace.token_ids.tolist() == ids, f"{what}: token ids", expected=ids, got=trace.token_ids)
    require(trace.prompt_length == PROMPT, f"{what}: length of the prompt", expected=PROMPT, got=trace.prompt_length)
    require(trace.experts.tolist() == chosen.tolist(), f"{what}: experts", expected=chosen, got=trace.experts)
    got = {name: getattr(trace.header, name) for name in NAMED}
    expected = dict.fromkeys(NAMED) | header
    require(got == expected, f"{what}: header", expected=expected, got=got)


@check("OKR-TRACE-010")
def answers_are_read_in_every_form(subject: Subject) -> None:
    from .. import system

    with system.accepted("an answer"):
        for what, response in _forms().items():
            require_answer(what, trace_of(response), what_ran(), ids_of(), NAMED)


@check("OKR-TRACE-010")
def parts_of_answers_are_found(subject: Subject) -> None:
    """The answer that is asked for, a flat array of named or of all layers, and what is known of the key."""
    from .. import system

    two = {"choices": [_choice(), _choice(1)], "prompt_token_ids": [1, 2]}
    flat = a_generation()
    flat["meta_info"]["routed_experts"] = int32_text(what_ran())
    bare = a_completion()
    del bare["okr_key_id"], bare["okr_setting"]
    short = a_generation()
    short["meta_info"]["routed_experts"] = int32_text(layer_columns()[2:])
    odd = {**bare, "okr_setting": "none", "okr_key_id": None}
    partial = {**bare, "okr_setting": {"epsilon": 0.25, "zone": None, "other": 7}}
    with system.accepted("an answer"):
        for number in (0, 1):
            found = trace_of(two, choice=number)
            require_answer(f"answer {number}", found, what_ran(number), ids_of(number), {})
        require_answer("a flat array", trace_of(flat, layers=ROUTERS), what_ran(), ids_of(), NAMED)
        require_answer("an answer without a key", trace_of(bare), what_ran(), ids_of(), {})
        require_answer("a setting that is a text", trace_of(odd), what_ran(), ids_of(), {})
        require_answer("a part of a setting", trace_of(partial), what_ran(), ids_of(), {"epsilon": 0.25})
        named = trace_of(a_completion(), zone="max", key_id=None)
        require_answer("what is named here", named, what_ran(), ids_of(), {**NAMED, "zone": "max", "key_id": None})
        later = what_ran()
        later[:2] = -1
        require_answer("rows after a cached prefix", trace_of(short, first=2), later, ids_of(), NAMED)


def _with(change: Any, made: dict[str, Any] | None = None) -> dict[str, Any]:
    made = copy.deepcopy(a_completion() if made is None else made)
    change(made)
    return made


def answer_of(value: Any) -> dict[str, Any]:
    """A completion with this value for its experts."""
    return _with(lambda made: made["choices"][0].update(routed_experts=value))


def generation_of(value: Any) -> dict[str, Any]:
    """A generation with this value for its experts."""
    return _with(lambda made: made["meta_info"].update(routed_experts=value), a_generation())


def _header_of_numpy(text: str) -> str:
    start = text.encode().ljust(117) + b"\n"
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(start).to_bytes(2, "little") + start + bytes(64)).decode()


def _wrong() -> dict[str, Any]:
    plain, generate = a_completion(), a_generation()
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
        "experts that are no base64": answer_of("*" + packed(layer_columns())[1:]),
        "experts of base64 between other signs": answer_of(
            packed(layer_columns())[:40] + "-_" + packed(layer_columns())[40:]
        ),
        "experts cut short": answer_of(packed(layer_columns())[:120]),
        "experts of no bytes": answer_of(""),
        "experts in rows of different lengths": answer_of([[[1, 2]], [[1]]]),
        "experts that are floats": answer_of(packed(layer_columns().astype(np.float32))),
        "experts that are objects": answer_of(
            _header_of_numpy("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}")
        ),
        "experts beyond memory": answer_of(
            _header_of_numpy("{'descr': '<i4', 'fortran_order': False, 'shape': (9999999999999,)}")
        ),
        "experts with a header that is none": answer_of(_header_of_numpy("{[(")),
        "experts of three bytes": generation_of(base64.b64encode(b"abc").decode()),
        "experts that do not divide": generation_of(int32_text(layer_columns().ravel()[:-1])),
        "experts that divide by one layer less": generation_of(int32_text(layer_columns()[:, 1:])),
        "experts of too many tokens": generation_of(int32_text(np.concatenate([layer_columns()] * 2))),
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
            trace_of(response)
    for number in (-1, 1, True, 0.0, "0", None):
        with system.refused(okr.InvalidTrace, f"answer number {number!r}"):
            trace_of(a_completion(), choice=number)
    for layers in ([], [1], [0, 1, 3]):
        with system.refused(okr.InvalidTrace, f"a flat array of {len(layers)} named layers"):
            trace_of(a_generation(), layers=layers)


@check("OKR-TRACE-010")
def answers_through_json_are_the_same(subject: Subject) -> None:
    """A completion as text, with the largest and the smallest experts of each type of number."""
    from .. import system

    array = layer_columns()
    with system.accepted("an answer"):
        for kind in ("uint8", "int16", "int32", "int64", ">i4"):
            for version in (None, (2, 0)):
                made = answer_of(packed(np.asfortranarray(array.astype(kind)), version))
                require_answer(f"{kind}", trace_of(json.loads(json.dumps(made))), what_ran(), ids_of(), NAMED)
