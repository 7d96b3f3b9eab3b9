"""Traces that say other than what ran, or more than they should."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from okr.engines.choice import EVERY, Own
from okr.engines.transformers import families, generation
from okr.engines.transformers.generation import Generation
from okr.engines.transformers.routings import Keyed
from okr.errors import InvalidTrace
from okr.traces import Trace, TraceHeader

from . import Change, broken, keyed

session: Any = import_module("okr.engines.transformers.session")
trace: Any = import_module("okr.traces.trace")
recording: Any = import_module("okr.engines.transformers.recording")
MODEL = ("OKR-WEIGHT-001", "OKR-WEIGHT-002", "OKR-ATTACH-001", "OKR-ATTACH-004", "OKR-ATTACH-006")
FILES = ("OKR-TRACE-002", "OKR-TRACE-003", "OKR-TRACE-004", "OKR-TRACE-006")


def _traces(change: Change, edit: Callable[[list[Trace]], list[Trace]]) -> None:
    generate = session.generate

    def generated(*arguments: Any) -> Generation:
        made = generate(*arguments)
        return Generation(made.sequences, edit(made.traces))

    change(session, "generate", generated)


def _experts(change: Change, edit: Callable[[Any], Any]) -> None:
    _traces(change, lambda made: [replace(t, experts=np.ascontiguousarray(edit(t.experts))) for t in made])


@broken("positions off by one", fails=("OKR-TRACE-001", "OKR-REPLAY-002", "OKR-VERIFY-002"), passes=(*MODEL, *FILES))
def off_by_one_position(change: Change) -> None:
    _experts(change, lambda experts: np.roll(experts, 1, 0))


@broken("the last token's experts those before it", fails=("OKR-TRACE-001",), passes=(*MODEL, *FILES, "OKR-REPLAY-001"))
def repeats_the_last(change: Change) -> None:
    _experts(change, lambda experts: np.concatenate([experts[:-1], experts[-2:-1]]))


@broken("sites in reverse", fails=("OKR-TRACE-001", "OKR-VERIFY-002"), passes=(*MODEL, *FILES))
def sites_in_reverse(change: Change) -> None:
    _experts(change, lambda experts: experts[:, ::-1])


@broken("experts sorted", fails=("OKR-TRACE-001",), passes=(*MODEL, *FILES, "OKR-VERIFY"))
def sorted_experts(change: Change) -> None:
    _experts(change, lambda experts: np.sort(experts, -1))


@broken(
    "the traces of a batch exchanged",
    fails=("OKR-TRACE-001",),
    passes=(*MODEL, *FILES, "OKR-REPLAY-001", "OKR-VERIFY-002"),
)
def exchanged(change: Change) -> None:
    _traces(change, lambda made: made[::-1])


@broken(
    "the last token left out",
    fails=("OKR-TRACE-001",),
    passes=(*MODEL, "OKR-TRACE-002", "OKR-TRACE-003", "OKR-TRACE-004", "OKR-REPLAY-001", "OKR-VERIFY-002"),
)
def drops_the_last_token(change: Change) -> None:
    _traces(change, lambda made: [replace(t, token_ids=t.token_ids[:-1], experts=t.experts[:-1]) for t in made])


@broken("padding left in", fails=("OKR-TRACE-001",), passes=(*MODEL, *FILES, "OKR-REPLAY-001", "OKR-VERIFY-002"))
def keeps_padding(change: Change) -> None:
    cut = generation._traces

    def uncut(*arguments: Any) -> list[Trace]:
        model, header, recorded, sequences, prompt, mask, *rest = arguments
        return cut(model, header, recorded, sequences, prompt, torch.ones_like(mask), *rest)

    change(generation, "_traces", uncut)


@keyed(
    "the native choice recorded", fails=("OKR-TRACE-001", "OKR-VERIFY-002"), passes=(*MODEL, *FILES, "OKR-REPLAY-001")
)
class RecordsNative(Keyed):
    def __init__(self, site: Any, key: Any, setting: Any, report: Any) -> None:
        super().__init__(site, key, setting, lambda ran: report(lambda: self.native))

    def choose(self, scores: Tensor, hidden: Tensor, native: Own) -> Tensor:
        self.native = native(EVERY)
        return super().choose(scores, hidden, native)


@broken("experts recorded before the capacity", fails=("OKR-TRACE-001",), passes=(*MODEL, *FILES, "OKR-VERIFY-002"))
def before_the_capacity(change: Change) -> None:
    change(families.Capacity, "ran", lambda self, output, chosen: chosen)


def _saved(change: Change, edit: Callable[[Trace], Trace]) -> None:
    save: Any = Trace.save
    change(Trace, "save", lambda self, path: save(edit(self), path))


@broken("infinite strength lost in the file", fails=("OKR-TRACE-002",), passes=(*MODEL, "OKR-TRACE-001"))
def loses_infinity(change: Change) -> None:
    _saved(change, lambda t: replace(t, header=t.header.model_copy(update={"strength": None})))


@broken(
    "the length of the prompt lost in the file",
    fails=("OKR-TRACE-002",),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-003"),
)
def loses_the_prompt(change: Change) -> None:
    _saved(change, lambda t: replace(t, prompt_length=0))


@broken(
    "token ids cut to five bits in the file",
    fails=("OKR-TRACE-002",),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-003"),
)
def small_tokens(change: Change) -> None:
    _saved(change, lambda t: replace(t, token_ids=t.token_ids % 32))


def _header(change: Change, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    describe = TraceHeader.describe
    change(TraceHeader, "describe", lambda model, sites, **header: describe(model, sites, **edit(header)))


@broken(
    "the header names no key",
    fails=("OKR-TRACE-003",),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002", "OKR-VERIFY-002"),
)
def nameless(change: Change) -> None:
    _header(change, lambda header: {**header, "key_id": None})


@broken(
    "native traces name a key",
    fails=("OKR-TRACE-003",),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002", "OKR-VERIFY-002"),
)
def names_a_key_always(change: Change) -> None:
    _header(change, lambda header: {**header, "key_id": header.get("key_id") or "0" * 16})


@broken(
    "epsilon rounded in the header",
    fails=("OKR-TRACE-003", "OKR-VERIFY-002"),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002"),
)
def rounds_epsilon(change: Change) -> None:
    _header(
        change, lambda header: {**header, "epsilon": float(round(header["epsilon"]))} if "epsilon" in header else header
    )


@broken(
    "native traces name a setting",
    fails=("OKR-TRACE-003",),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002", "OKR-VERIFY-002"),
)
def setting_without_key(change: Change) -> None:
    _header(change, lambda header: {"epsilon": 1.0, "zone": "max", "strength": 1.0, **header})


def _metadata(change: Change, **more: str) -> None:
    save = trace.save
    change(trace, "save", lambda arrays, metadata: save(arrays, metadata={**metadata, **more}))


@broken(
    "the secret in the file",
    fails=("OKR-TRACE-004", "OKR-RESULT-005"),
    passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002"),
)
def secret_in_the_file(change: Change) -> None:
    from ...system import SECRET

    _metadata(change, key=SECRET.hex())


@broken("the secret in the file in base64", fails=("OKR-TRACE-004", "OKR-RESULT-005"), passes=(*MODEL, "OKR-TRACE-001"))
def secret_in_base64(change: Change) -> None:
    from ...system import SECRET

    _metadata(change, key=base64.b64encode(SECRET).decode())


@broken(
    "damaged files raise whatever comes", fails=("OKR-TRACE-005",), passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002")
)
def loads_carelessly(change: Change) -> None:
    def parse(cls: Any, content: bytes) -> Trace:
        arrays = trace.load(content)
        size = int.from_bytes(content[:8], "little")
        described = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["okr"])
        del described["sha256"]
        prompt = int(arrays.pop("prompt_length")[0])
        return Trace(header=TraceHeader.model_validate_json(json.dumps(described)), prompt_length=prompt, **arrays)

    change(Trace, "_parse", classmethod(parse))


@broken("errors of many lines", fails=("OKR-TRACE-005",), passes=(*MODEL, "OKR-TRACE-001", "OKR-TRACE-002"))
def long_errors(change: Change) -> None:
    read = trace.load

    def loaded(content: bytes) -> Any:
        try:
            return read(content)
        except SafetensorError as error:
            raise InvalidTrace(f"cannot read\n{error}") from None

    change(trace, "load", loaded)


@broken("whole numbers of 64 bits in the file", fails=("OKR-TRACE-006",), passes=(*MODEL, "OKR-TRACE-001"))
def wide_integers(change: Change) -> None:
    save, read = trace.save, trace.load
    narrow = {"experts": np.int16, "token_ids": np.int32, "prompt_length": np.int32}

    def saved(arrays: dict[str, Any], metadata: Any) -> bytes:
        content: bytes = save({name: array.astype(np.int64) for name, array in arrays.items()}, metadata=metadata)
        return content

    change(trace, "save", saved)
    change(trace, "load", lambda content: {name: a.astype(narrow[name]) for name, a in read(content).items()})


@broken(
    "recordings whose positions are off by one",
    fails=("OKR-TRACE-001",),
    passes=("OKR-ATTACH-004", *FILES),
)
def recordings_off_by_one(change: Change) -> None:
    columns = recording.columns
    change(recording, "columns", lambda calls, batch, shown: columns(calls, batch, shown).roll(1, 1))


@broken(
    "one token and then two taken for three in a row, also where a loop without a cache begins so",
    fails=("OKR-TRACE-001",),
    passes=("OKR-ATTACH-004", *FILES),
)
def one_reading_of_two(change: Change) -> None:
    change(recording, "_shown", lambda counts, length: length if sum(counts) == length else length - 1)
