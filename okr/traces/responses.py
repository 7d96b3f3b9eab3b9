"""Reads the answers of serving engines: the OpenAI-compatible JSON of vLLM and SGLang, and vLLM's ``RequestOutput``.

A response may come from an attacker. Whatever it holds, reading it gives consistent parts or raises InvalidTrace.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel

from okr.errors import InvalidTrace
from okr.traces.routed_experts import whole_array

KEY_ID, SETTING = "okr_key_id", "okr_setting"
"""The fields of a response in which ``okr serve`` says what it was made under."""

_NUMPY = b"\x93NUMPY"
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Answer:
    """One generated sequence of a response.

    Attributes:
        token_ids: prompt and generated tokens.
        prompt_length: how many of them were given.
        experts: the engine's array [rows, columns, k], or flat where the engine does not say its shape.
        header: ``key_id``, ``zone``, ``epsilon`` and ``strength``, as far as the response names them,
            as it writes them.
    """

    token_ids: Sequence[int]
    prompt_length: int
    experts: Int[np.ndarray, "..."]
    header: Mapping[str, Any]


def read(response: Any, choice: int) -> Answer:
    """The answer number ``choice`` of ``response``, which is a mapping, an object of the ``openai`` package, or vLLM's
    ``RequestOutput``. Raises InvalidTrace if it lacks what a trace needs."""
    document = _document(response)
    choices = document.get("choices", document.get("outputs"))
    if choices is None and "meta_info" in document:
        return _of_sglang(document)
    if not isinstance(choices, Sequence) or isinstance(choices, str | bytes) or not choices:
        raise InvalidTrace("the response has no choices: it must be a completion, or vLLM's RequestOutput")
    if isinstance(choice, bool) or not isinstance(choice, int) or not 0 <= choice < len(choices):
        raise InvalidTrace(f"the response has {len(choices)} choices and no number {choice!r:.20}")
    chosen = _document(choices[choice])
    prompt, new = chosen.get("prompt_token_ids", document.get("prompt_token_ids")), chosen.get("token_ids")
    if prompt is None or new is None:
        raise InvalidTrace('the response has no token ids: ask the server for them with "return_token_ids": true')
    experts = chosen.get("routed_experts")
    if experts is None and isinstance(document.get("sglext"), Mapping):
        experts = document["sglext"].get("routed_experts")
    prompt, new = _tokens(prompt, "prompt_token_ids"), _tokens(new, "token_ids")
    return Answer([*prompt, *new], len(prompt), _array(experts), _header(document))


def _of_sglang(document: Mapping[str, Any]) -> Answer:
    """The answer of SGLang's own ``/generate``. It repeats no prompt, so ``input_ids`` must have been put in."""
    about = document["meta_info"]
    if not isinstance(about, Mapping):
        raise InvalidTrace("meta_info must be an object")
    prompt, new = document.get("input_ids"), document.get("output_ids")
    if prompt is None or new is None:
        raise InvalidTrace(
            "the response has no token ids: put the prompt's into it as input_ids, beside its output_ids"
        )
    prompt, new = _tokens(prompt, "input_ids"), _tokens(new, "output_ids")
    return Answer([*prompt, *new], len(prompt), _array(about.get("routed_experts")), _header(document))


def _document(given: Any) -> Mapping[str, Any]:
    """``given`` as a mapping."""
    if isinstance(given, Mapping):
        return given
    if isinstance(given, BaseModel):
        return given.model_dump()
    names = ("outputs", "prompt_token_ids", "token_ids", "routed_experts", KEY_ID, SETTING)
    found = {name: getattr(given, name) for name in names if hasattr(given, name)}
    if not found:
        raise InvalidTrace(f"a {type(given).__name__} is no response: give the JSON as a dictionary, or vLLM's output")
    return found


def _tokens(given: Any, name: str) -> list[int]:
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    tokens = list(given) if listed or (isinstance(given, np.ndarray) and given.ndim == 1) else None
    if tokens is None or any(isinstance(token, bool) or not isinstance(token, int | np.integer) for token in tokens):
        raise InvalidTrace(f"{name} must be whole numbers")
    return [int(token) for token in tokens]


def _array(given: Any) -> np.ndarray:
    """The routed experts: an array, or base64 of NumPy's format (vLLM) or of int32 (SGLang)."""
    if given is None:
        raise InvalidTrace("the response has no routed_experts: the server must return them (okr serve does)")
    if not isinstance(given, str):
        return whole_array(given, "routed_experts")
    if len(given) > _MOST_BYTES:
        raise InvalidTrace(f"routed_experts is larger than {_MOST_BYTES} bytes")
    try:
        content = base64.b64decode(given, validate=True)
        if content.startswith(_NUMPY):
            return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
        return np.frombuffer(content, "<i4")
    except Exception:  # NumPy does not list what a hostile header can raise
        raise InvalidTrace("routed_experts is not base64 of an array, or is damaged") from None


def _header(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the response says about its key."""
    header = {"key_id": document.get(KEY_ID)}
    setting = document.get(SETTING)
    if isinstance(setting, Mapping):
        header |= {name: setting.get(name) for name in ("zone", "epsilon", "strength")}
    return {name: value for name, value in header.items() if value is not None}


def shaped(
    experts: Int[np.ndarray, "..."], tokens: int, columns: int, top_k: int
) -> Int[np.ndarray, "rows columns top_k"]:
    """``experts`` as [rows, columns, k] if it is flat. Raises InvalidTrace if it does not divide."""
    if experts.ndim != 1:
        return experts
    if columns == 0 or len(experts) % (columns * top_k) or len(experts) // (columns * top_k) > tokens:
        raise InvalidTrace(
            f"{len(experts)} experts are not those of {columns} layers with {top_k} each for up to {tokens} tokens: "
            "say which layers the columns belong to with layers="
        )
    return experts.reshape(-1, columns, top_k)
