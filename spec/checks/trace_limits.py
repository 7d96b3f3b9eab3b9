"""Chapter TRACE: the largest and the smallest parts, headers and files, and those beyond; how passes are stored."""

import base64
import json
import os
import struct
import tempfile
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import Violation, require
from . import check
from .trace_parts import file_of, forged, loaded, require_same, with_parts


def _with_site(trace: Any, **fields: Any) -> Any:
    """The header of ``trace`` with other fields of its last site, unchecked."""
    *others, last = trace.header.sites
    return trace.header.model_copy(update={"sites": (*others, last.model_copy(update=fields))})


def _largest(trace: Any) -> dict[str, dict[str, Any]]:
    """Parts as large and as small as they may be, by what they are."""
    two = {"token_ids": trace.token_ids[:2], "prompt_length": 1}
    last, tokens = trace.header.sites[-1], len(trace.experts)
    model, header = trace.header.model, trace.header
    one = trace.experts[:1]
    most = np.full((1, 2, 2**15 - 1), -1, np.int16)
    most[0, 0, :2], most[0, 1] = one[0, 0], np.arange(2**15 - 1)[::-1]
    highest = trace.experts.copy()
    highest[:, -1] = (2**15 - 2, 0)
    single = np.full_like(one, -1)
    single[0, -1, 0] = 0
    found = {
        "the last layer": {"header": _with_site(trace, layer=2**31 - 1)},
        "the first layer": {"header": _with_site(trace, layer=0)},
        "the most experts": {"header": _with_site(trace, num_experts=2**15 - 1), "experts": highest},
        "the most experts, all of which run": {
            **two,
            "header": _with_site(trace, num_experts=2**15 - 1, top_k=2**15 - 1),
            "experts": most,
        },
        "one expert": {**two, "header": _with_site(trace, num_experts=1, top_k=1), "experts": single},
        "a path of 512 signs": {"header": _with_site(trace, path="x" * 512)},
        "a stack of 512 signs": {"header": _with_site(trace, stack="x" * 512)},
        "a dtype of 512 signs": {"header": header.model_copy(update={"dtype": "x" * 512})},
        "a class of 512 signs": {
            "header": header.model_copy(update={"model": model.model_copy(update={"class_name": "x" * 512})})
        },
        "a sample of one row of weights": {"header": _with_sample(trace, 1)},
        "a sample of 64 rows of weights": {"header": _with_sample(trace, 64)},
        "no decoder site": _of_an_encoder_alone(),
    }
    runs = {
        "the longest sequence seen": [[1, tokens, 2**31 - 1 - tokens]],
        "the longest sequence seen by single tokens": [[tokens, 1, 2**31 - 1 - tokens]],
        "the longest sequence seen before": [[1, 0, 2**31 - 1], [1, tokens, tokens]],
    }
    require(last.top_k == 2, "the model of the tests keeps two experts")
    return found | {what: {"passes": np.array(array, np.int32)} for what, array in runs.items()}


def _with_sample(trace: Any, rows: float, between: str = "") -> Any:
    """The header of ``trace`` with a sample of so many rows of weights, ``between`` them in base64."""
    values = base64.b64encode(np.arange(int(8 * rows)).astype("<f2").tobytes()).decode()
    model = trace.header.model
    sample = model.weights.model_copy(update={"values": values[:8] + between + values[8:]})
    return trace.header.model_copy(update={"model": model.model_copy(update={"weights": sample})})


def _of_an_encoder_alone() -> dict[str, Any]:
    """The parts of a trace none of whose sites is the decoder's."""
    from .. import system

    trace = system.capacity_traces()[0]
    sites = tuple(site for site in trace.header.sites if site.stack == "encoder")
    return {
        "header": trace.header.model_copy(update={"sites": sites}),
        "token_ids": trace.token_ids,
        "experts": np.zeros((len(trace.token_ids) - 1, 0, 0), np.int16),
        "encoder_token_ids": trace.encoder_token_ids,
        "encoder_experts": trace.encoder_experts,
        "prompt_length": 1,
    }


@check("OKR-TRACE-007")
def parts_at_their_limits_are_taken(subject: Subject) -> None:
    from .. import system

    trace = system.traces(0)[0]
    for what, parts in _largest(trace).items():
        with system.accepted(f"a trace with {what}"):
            made = with_parts(trace, parts)
            require_same(what, made, loaded(file_of(made)))


@check("OKR-TRACE-007")
def parts_beyond_their_limits_are_refused(subject: Subject) -> None:
    """Where all parts fit one another but for the limit; sites of no experts or without a place for one."""
    from .. import system
    from ..system import okr

    trace = system.traces(0)[0]
    tokens, unknown = len(trace.experts), trace.experts.copy()
    unknown[:, -1] = -1
    alone = trace.header.sites[-1].model_copy(update={"top_k": 0})
    wrong: dict[str, dict[str, Any]] = {
        "a layer of 2^31": {"header": _with_site(trace, layer=2**31)},
        "no experts": {"header": _with_site(trace, num_experts=0), "experts": unknown},
        "2^15 experts": {"header": _with_site(trace, num_experts=2**15)},
        "no place for an expert": {"header": _with_site(trace, top_k=0), "experts": unknown},
        "no place for an expert anywhere": {
            "header": trace.header.model_copy(update={"sites": (alone,)}),
            "experts": trace.experts[:, :1, :0],
        },
        "a path of 513 signs": {"header": _with_site(trace, path="x" * 513)},
        "a decoder's places without a site": {
            **_of_an_encoder_alone(),
            "experts": np.full((len(_of_an_encoder_alone()["experts"]), 0, 1), -1, np.int16),
        },
        "a sample of no weights": {"header": _with_sample(trace, 0)},
        "a sample of half a row of weights": {"header": _with_sample(trace, 0.5)},
        "a sample of three halves of a row of weights": {"header": _with_sample(trace, 1.5)},
        "a sample of 65 rows of weights": {"header": _with_sample(trace, 65)},
        "a sample with other signs between": {"header": _with_sample(trace, 3, "****")},
        "a length that grows to 2^31": {"passes": np.array([[1, tokens, 2**31 - tokens]], np.int32)},
    }
    for what, parts in wrong.items():
        content = file_of(forged(trace, parts))
        with system.refused(okr.InvalidTrace, f"a file with {what}"):
            loaded(content)


def _padded(content: bytes, size: int) -> bytes:
    """The file with spaces behind its header, which then has ``size`` bytes."""
    old = struct.unpack("<Q", content[:8])[0]
    return struct.pack("<Q", size) + content[8 : 8 + old].ljust(size) + content[8 + old :]


@check("OKR-TRACE-005")
def large_files_are_refused_unread(subject: Subject) -> None:
    """A header of 2^21 bytes is read, a longer one is not; nor is a file of more than 2^30 bytes."""
    from .. import system
    from ..system import okr

    trace = system.traces(0)[0]
    content = file_of(trace)
    with system.accepted("a file with a header of 2^21 bytes"):
        require_same("a file with a header of 2^21 bytes", trace, loaded(_padded(content, 2**21)))
    for size in (2**21 + 1, 2**21 + 8, 2**22):
        with system.refused(okr.InvalidTrace, f"a file with a header of {size} bytes"):
            loaded(_padded(content, size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.trace"
        path.write_bytes(content)
        os.truncate(path, 2**30 + 1)
        tracing = tracemalloc.is_tracing()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            with system.refused(okr.InvalidTrace, "a file of 2^30 + 1 bytes"):
                okr.Trace.load(path)
            used = tracemalloc.get_traced_memory()[1] - before
        finally:
            if not tracing:
                tracemalloc.stop()
    require(used < 2**24, "a file of 2^30 + 1 bytes was read", expected=f"< {2**24} bytes of memory", got=used)


@check("OKR-TRACE-002")
def what_cannot_be_loaded_is_not_saved(subject: Subject) -> None:
    """A trace of 2200 sites with names of 500 signs; of as many with short names, one that can."""
    from .. import system
    from ..system import okr

    trace = system.traces(0)[0]
    for length in (500, 20):
        site = trace.header.sites[0].model_copy(update={"path": "x" * length, "stack": "y" * length})
        header = trace.header.model_copy(update={"sites": (site,) * 2200})
        wide = forged(trace, {"header": header, "experts": np.repeat(trace.experts[:, :1], 2200, 1)})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "wide.trace"
            if length == 20:
                with system.accepted("a trace of 2200 sites"):
                    wide.save(path)
                    require_same("a trace of 2200 sites", wide, okr.Trace.load(path))
                continue
            with system.refused(okr.InvalidTrace, "saving a trace whose header is too large"):
                wide.save(path)
            require(not path.exists(), "a file that cannot be loaded was written")


def _no_number(text: str) -> Any:
    raise Violation(f"the header in a file is no JSON: it holds {text}")


@check("OKR-TRACE-003")
def headers_in_files_are_json(subject: Subject) -> None:
    """JSON knows no infinity, and many programs that read it refuse one."""
    from .. import system

    for trace in (system.traces(0)[0], system.traces(1, strength=1.0)[0]):
        content = file_of(trace)
        size = struct.unpack("<Q", content[:8])[0]
        told = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["okr"], parse_constant=_no_number)
        strength = trace.header.strength
        expected = {
            "spec_version": trace.header.spec_version,
            "key_id": trace.header.key_id,
            "zone": trace.header.zone,
            "epsilon": trace.header.epsilon,
            "strength": "inf" if strength == float("inf") else strength,
            "dtype": trace.header.dtype,
        }
        got = {name: told.get(name) for name in expected}
        require(got == expected, "the header in a file", expected=expected, got=got)
        require("autocast" not in told, "an autocast in the file of a trace without one", got=told.get("autocast"))
        lowered = with_parts(trace, {"header": trace.header.model_copy(update={"autocast": "bfloat16"})})
        require(b'\\"autocast\\": \\"bfloat16\\"' in file_of(lowered), "no autocast in the file of a trace with one")


_PASSES: tuple[tuple[list[tuple[int, int]], list[list[int]]], ...] = (
    ([(5, 5), (1, 6), (1, 7), (2, 9), (2, 11), (1, 12), (1, 13)], [[1, 5, 5], [2, 1, 6], [2, 2, 9], [2, 1, 12]]),
    ([(9, 9), (3, 12), (3, 15), (3, 18), (1, 19), (1, 20)], [[1, 9, 9], [3, 3, 12], [2, 1, 19]]),
    ([(4, 4), (1, 5), (1, 6), (1, 20), (1, 21), (1, 22)], [[1, 4, 4], [2, 1, 5], [3, 1, 20]]),
    ([(0, 40), (0, 40), (4, 44), (1, 45)], [[1, 0, 40], [1, 0, 40], [1, 4, 44], [1, 1, 45]]),
    ([(2, 2), (2, 4), (2, 6)], [[3, 2, 2]]),
    ([(2, 9), (1, 9)], [[1, 2, 9], [1, 1, 9]]),
)


@check("OKR-TRACE-006")
def passes_are_stored_as_runs(subject: Subject) -> None:
    """Passes of equally many tokens, each of which goes on where the one before ended, are one run."""
    from .. import system
    from ..system import okr

    traces: Any = import_module("okr.traces")
    for passes, expected in _PASSES:
        with system.accepted(f"the passes {passes}"):
            runs = traces.folded(passes)
            got = runs.tolist(), traces.unfolded(np.array(expected, np.int32))
        require(got[0] == expected, f"runs of the passes {passes}", expected=expected, got=got[0])
        require(got[1] == passes, f"passes of the runs {expected}", expected=passes, got=got[1])
        require(runs.dtype == np.int32, "type of the runs", expected="int32", got=runs.dtype)
    model = system.growing_model()
    with (
        okr.watermark(model, system.key(), epsilon=1.0, zone="boundary") as session,
        system.accepted("scaled positions"),
    ):
        trace = session.generate(system.tokens(1), max_new_tokens=4, **system.GREEDY).traces[0]
    require(trace.passes.tolist() == [[1, 8, 8], [3, 1, 9]], "passes of a text", got=trace.passes)
