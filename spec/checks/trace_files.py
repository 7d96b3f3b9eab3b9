"""Chapter TRACE: files that are no traces, or were made to deceive."""

import json
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..subject import Subject
from . import check
from .trace_parts import file_of, forged, loaded

_WRONG_HEADERS: dict[str, dict[str, Any]] = {
    "another spec version": {"spec_version": "0.9"},
    "a spec version that is a number": {"spec_version": 1.1},
    "another autocast": {"autocast": "float32"},
    "a short key id": {"key_id": "0123456789abcde"},
    "a long key id": {"key_id": "0123456789abcdef0"},
    "a key id in capitals": {"key_id": "0123456789ABCDEF"},
    "a key id that is a number": {"key_id": 1234567890123456},
    "another zone": {"zone": "middle"},
    "an epsilon below 0": {"epsilon": -1e-9},
    "an epsilon of minus infinity": {"epsilon": "-inf"},
    "an epsilon that is a text": {"epsilon": "1"},
    "an epsilon that is no number": {"epsilon": "nan"},
    "a strength below 0": {"strength": -1},
    "a strength that is a list": {"strength": [1.0]},
    "a dtype that is a number": {"dtype": 32},
    "an endless dtype": {"dtype": "x" * 513},
    "no sites": {"sites": []},
    "sites that are none": {"sites": [1, 2]},
    "a field that nobody knows": {"secret": "x"},
    "no model": {"model": None},
}
_WRONG_SITES: dict[str, dict[str, Any]] = {
    "a layer below 0": {"layer": -1},
    "a layer that is no number": {"layer": "0"},
    "a layer beyond int32": {"layer": 2**31},
    "no experts": {"num_experts": 0},
    "experts beyond int16": {"num_experts": 2**15},
    "no place for experts": {"top_k": 0},
    "a path that is a number": {"path": 1},
    "an endless path": {"path": "x" * 513},
    "a stack that is none": {"stack": None},
    "a field of a site that nobody knows": {"unit": "logit"},
}
_WRONG_MODELS: dict[str, dict[str, Any]] = {
    "a structure that is no digest": {"structure": "x" * 16},
    "a structure that is too long": {"structure": "0" * 17},
    "routers that are no digest": {"routers": "0" * 15},
    "weights that are a text": {"weights": "0" * 16},
    "places of weights that are no digest": {"weights": {"places": "0" * 15, "values": "AAAA" * 4 + "AAAAAA=="}},
    "values of weights that are no base64": {"weights": {"places": "0" * 16, "values": "*" * 24}},
    "no values of weights": {"weights": {"places": "0" * 16, "values": ""}},
    "half a row of weights": {"weights": {"places": "0" * 16, "values": "AAAAAAAAAAA="}},
    "rows of weights beyond counting": {
        "weights": {"places": "0" * 16, "values": "A" * (4 * 16 * 65 // 3 + 1) + "=" * 2}
    },
    "a field of weights that nobody knows": {"weights": {"places": "0" * 16, "values": "A" * 22 + "==", "x": 1}},
    "a class that is a number": {"class_name": 1},
    "a field of a model that nobody knows": {"name": "x"},
}


def _headers() -> list[tuple[str, Callable[[dict[str, Any]], Any]]]:
    """What is wrong with a header, and what makes it so."""
    found: list[tuple[str, Callable[[dict[str, Any]], Any]]] = []
    for places, within in ((_WRONG_HEADERS, _whole), (_WRONG_SITES, _last_site), (_WRONG_MODELS, _model)):
        found += [(what, partial(_update, within, fields)) for what, fields in places.items()]
    return [*found, *((f"no {name}", partial(_drop, name)) for name in ("model", "sites", "dtype"))]


def _whole(told: dict[str, Any]) -> dict[str, Any]:
    return told


def _last_site(told: dict[str, Any]) -> Any:
    return told["sites"][-1]


def _model(told: dict[str, Any]) -> Any:
    return told["model"]


def _update(within: Callable[[dict[str, Any]], Any], fields: dict[str, Any], told: dict[str, Any]) -> None:
    within(told).update(fields)


def _drop(name: str, told: dict[str, Any]) -> None:
    del told[name]


class _Told:
    """Stands for a header that says what a dictionary says, right or wrong."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return self.told

    def model_dump_json(self) -> str:
        return json.dumps(self.told, separators=(",", ":"))


@check("OKR-TRACE-005")
def headers_are_checked_field_by_field(subject: Subject) -> None:
    """Each field wrong in turn, in a file whose checksum is right; as it is, and as it may be left out."""
    from .. import system
    from ..system import okr

    trace = system.traces(0)[0]
    with system.accepted("a file with the header as it is"):
        loaded(file_of(forged(trace, {"header": _Told(trace.header.model_dump(mode="json"))})))
    for what, change in _headers():
        told = trace.header.model_dump(mode="json")
        change(told)
        content = file_of(forged(trace, {"header": _Told(told)}))
        with system.refused(okr.InvalidTrace, f"a file with {what}"):
            loaded(content)


def _containers(content: bytes) -> dict[str, bytes]:
    """Files that are no safetensors file with the arrays of a trace and a header, by what is wrong."""
    from safetensors.numpy import load, save

    size = struct.unpack("<Q", content[:8])[0]
    head, rest, arrays = json.loads(content[8 : 8 + size]), content[8 + size :], load(content)
    about: dict[str, str] = head["__metadata__"]
    told = json.loads(about["okr"])

    def saved(metadata: Any = about, **changes: Any) -> bytes:
        return save({n: a for n, a in {**arrays, **changes}.items() if a is not None}, metadata=metadata)

    def said(value: Any) -> bytes:
        return saved({"okr": value if isinstance(value, str) else json.dumps(value)})

    def headed(start: bytes) -> bytes:
        return struct.pack("<Q", len(start)) + start + rest

    return {
        "nothing in it": b"",
        "seven bytes": content[:7],
        "the length of a header alone": content[:8],
        "a header cut short": content[:100],
        "a header of no bytes": struct.pack("<Q", 0) + rest,
        "a header of one byte": struct.pack("<Q", 1) + b"{" + rest,
        "a header of 2^63 bytes": struct.pack("<Q", 2**63) + content[8:],
        "a header longer than the file": struct.pack("<Q", len(content)) + content[8:],
        "a header of one byte too many": struct.pack("<Q", len(content) - 7) + content[8:],
        "a header that is no JSON": headed(b"no JSON at all  "),
        "a header nested without end": headed(b"[" * 200_000),
        "a header of another kind": headed(b"[1, 2, 3]       "),
        "no metadata": saved(None),
        "metadata of others": saved({"other": about["okr"]}),
        "metadata that are no JSON": said("{"),
        "metadata that are a list": said([told]),
        "metadata that are a number": said(7),
        "metadata nested without end": said("[" * 100_000),
        "no checksum": said({name: value for name, value in told.items() if name != "sha256"}),
        "a checksum that is a number": said({**told, "sha256": 7}),
        "another checksum": said({**told, "sha256": "0" * 64}),
        "half a checksum": said({**told, "sha256": told["sha256"][:32]}),
        "no token ids": saved(token_ids=None),
        "no experts": saved(experts=None),
        "no length of the prompt": saved(prompt_length=None),
        "an array too many": saved(text=arrays["token_ids"]),
        "two lengths of the prompt": saved(prompt_length=np.array([8, 8], np.int32)),
        "a length of the prompt without a dimension": saved(prompt_length=np.array(8, np.int32)),
        "a length of the prompt in int64": saved(prompt_length=arrays["prompt_length"].astype(np.int64)),
        "a length of the prompt in float32": saved(prompt_length=arrays["prompt_length"].astype(np.float32)),
        "another length of the prompt": saved(prompt_length=arrays["prompt_length"] - 1),
        "another token": saved(token_ids=arrays["token_ids"] + 1),
        "other experts": saved(experts=arrays["experts"][::-1].copy()),
        "another key id": said({**told, "key_id": "0" * 16}),
        "another epsilon": said({**told, "epsilon": 3.5}),
    }


@check("OKR-TRACE-005")
def other_files_are_refused(subject: Subject) -> None:
    """Files of other kinds, files that another program changed, and no file at all."""
    from .. import system
    from ..system import okr

    content = file_of(system.traces(0)[0])
    for what, other in _containers(content).items():
        with system.refused(okr.InvalidTrace, f"a file with {what}"):
            loaded(other)
    with tempfile.TemporaryDirectory() as folder:
        for what, path in (("no file", Path(folder) / "none"), ("a folder", Path(folder)), ("a name with NUL", "a\0b")):
            with system.refused(okr.InvalidTrace, what):
                okr.Trace.load(path)
        for what, path in (("a folder that is not there", Path(folder) / "none" / "one"), ("a name with NUL", "a\0b")):
            with system.refused(okr.InvalidTrace, f"saving to {what}"):
                system.traces(0)[0].save(path)
