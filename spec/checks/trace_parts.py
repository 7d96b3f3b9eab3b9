"""Chapter TRACE: traces whose parts do not fit together, and those whose parts do."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check

Parts = dict[str, Any]


def forged(trace: Any, parts: Parts) -> Any:
    """A trace with other parts, which nobody checked."""
    made = copy.copy(trace)
    for name, value in parts.items():
        object.__setattr__(made, name, value)
    return made


def _written(folder: str, content: bytes) -> Path:
    path = Path(folder) / "one.trace"
    path.write_bytes(content)
    return path


def file_of(trace: Any) -> bytes:
    """The file of a trace, with the checksum of what it holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.trace"
        trace.save(path)
        return path.read_bytes()


def loaded(content: bytes) -> Any:
    """The trace in a file."""
    from ..system import okr

    with tempfile.TemporaryDirectory() as folder:
        return okr.Trace.load(_written(folder, content))


def _changed(array: Any, place: Any, value: Any) -> Any:
    made = array.copy()
    made[place] = value
    return made


def _wrong_tokens(name: str, ids: Any) -> dict[str, Parts]:
    found = {
        f"{name} of int64": ids.astype(np.int64),
        f"{name} of int16": ids.astype(np.int16),
        f"{name} in two dimensions": ids[None],
        f"{name} below 0": _changed(ids, 3, -1),
        f"{name} of which the first is below 0": _changed(ids, 0, -7),
        f"{name}, one too many": np.append(ids, ids[:1]),
        f"{name}, one too few": ids[:-1],
        f"no {name} at all": ids[:0],
    }
    return {what: {name: array} for what, array in found.items()}


def _wrong_experts(name: str, ran: Any, count: int) -> dict[str, Parts]:
    """``count`` experts are at every site."""
    found = {
        f"{name} of int32": ran.astype(np.int32),
        f"{name} of uint16": ran.astype(np.uint16),
        f"{name}, one row too many": np.concatenate([ran, ran[:1]]),
        f"{name}, one site too many": np.concatenate([ran, ran[:, :1]], 1),
        f"{name}, one site too few": ran[:, :-1],
        f"{name}, one place too many": np.concatenate([ran, np.full_like(ran[..., :1], -1)], -1),
        f"{name}, one place too few": ran[..., :-1],
        f"{name} in two dimensions": ran.reshape(len(ran), -1),
        f"{name}, one beyond those there are": _changed(ran, (2, 0, 0), count),
        f"{name}, the largest integer": _changed(ran, (2, -1, -1), 2**15 - 1),
        f"{name}, one of them -3": _changed(ran, (2, -1), -3),
        f"{name}, one token of the last site beyond those there are": _changed(ran, (-1, -1, -1), count),
    }
    if ran.shape[-1] > 1:
        found |= {
            f"{name}, one of them twice": _changed(ran, (1, 0, 1), ran[1, 0, 0]),
            f"{name}, one of them not recorded": _changed(ran, (1, 0, 1), -1),
            f"{name}, one of them dropped": _changed(ran, (1, 0, 0), -2),
            f"{name}, one not recorded and the others dropped": _changed(_changed(ran, (1, 0), -2), (1, 0, 0), -1),
        }
    return {what: {name: array} for what, array in found.items()}


def _wrong_passes(tokens: int) -> dict[str, Parts]:
    """Passes that do not store those of ``tokens`` tokens."""
    runs = {
        "no passes": np.zeros((0, 3)),
        "passes of one token too few": [[1, tokens - 1, tokens]],
        "passes of one token too many": [[1, tokens + 1, tokens + 1]],
        "passes that saw less than they hold": [[1, tokens, tokens - 1]],
        "later passes that saw less than they hold": [[1, 4, 4], [tokens - 4, 1, 4]],
        "passes without tokens": [[1, 4, 4], [1, 0, 9], [1, tokens - 4, tokens]],
        "two passes without tokens in front": [[2, 0, 9], [1, tokens, tokens]],
        "no pass": [[1, tokens, tokens], [0, 1, tokens + 1]],
        "fewer than no passes": [[-1, 1, 4], [1, tokens + 1, tokens + 1]],
        "fewer than no tokens": [[1, -1, 4], [1, tokens + 1, tokens + 1]],
        "a length below 0": [[1, 0, -4], [1, tokens, tokens]],
        "a length beyond int32": [[1, tokens, 2**31 - 1]],
        "a length that grows beyond int32": [[tokens, 1, 2**31 - tokens]],
        "runs of two numbers": [[1, tokens]],
        "runs of four numbers": [[1, tokens, tokens, 0]],
        "runs in one dimension": [1, tokens, tokens],
    }
    found = {name: {"passes": np.array(given, np.int32)} for name, given in runs.items()}
    return found | {"passes of int64": {"passes": np.array([[1, tokens, tokens]], np.int64)}}


def wrong_parts() -> list[tuple[Any, dict[str, Parts]]]:
    """Traces with the parts that do not fit them, by what is wrong."""
    from .. import system

    found = []
    for index, count in ((0, 8), (1, 16)):
        trace = system.traces(index)[0]
        wrong = _wrong_tokens("token_ids", trace.token_ids) | _wrong_experts("experts", trace.experts, count)
        wrong |= _wrong_passes(len(trace.experts)) | {
            "a prompt below 0": {"prompt_length": -1},
            "a prompt longer than the text": {"prompt_length": len(trace.token_ids) + 1},
            "one token alone": {"token_ids": trace.token_ids[:1], "experts": trace.experts[:0], "prompt_length": 0},
            "tokens of an encoder that is not there": {"encoder_token_ids": trace.token_ids},
            "experts of an encoder that is not there": {"encoder_experts": trace.experts},
            "an encoder that is not there": {
                "encoder_token_ids": trace.token_ids[:-1],
                "encoder_experts": trace.experts,
            },
        }
        found.append((trace, wrong))
    return [*found, _of_an_encoder()]


def _of_an_encoder() -> tuple[Any, dict[str, Parts]]:
    from .. import system

    trace = system.capacity_traces()[0]
    wrong = _wrong_tokens("token_ids", trace.token_ids) | _wrong_experts("experts", trace.experts, 8)
    wrong |= _wrong_tokens("encoder_token_ids", trace.encoder_token_ids)
    wrong |= _wrong_experts("encoder_experts", trace.encoder_experts, 8)
    tokens = len(trace.experts)
    return trace, wrong | {
        "passes beside an encoder": {"passes": np.array([[1, tokens, tokens]], np.int32)},
        "no tokens of the encoder": {"encoder_token_ids": None},
        "no experts of the encoder": {"encoder_experts": None},
        "nothing of the encoder": {"encoder_token_ids": None, "encoder_experts": None},
        "an encoder that read nothing": {
            "encoder_token_ids": trace.encoder_token_ids[:0],
            "encoder_experts": trace.encoder_experts[:0],
        },
    }


@check("OKR-TRACE-007")
def parts_that_do_not_fit_are_refused(subject: Subject) -> None:
    """Each part wrong in turn: when the trace is made, and in a file with a right checksum."""
    from .. import system
    from ..system import okr

    for trace, wrong in wrong_parts():
        given = {name: getattr(trace, name) for name in PARTS}
        for what, parts in wrong.items():
            with system.refused(okr.InvalidTrace, what):
                okr.Trace(**given | parts)
            content = file_of(forged(trace, parts))
            with system.refused(okr.InvalidTrace, f"a file with {what}"):
                loaded(content)


PARTS = ("header", "token_ids", "experts", "prompt_length", "encoder_token_ids", "encoder_experts", "passes")


@check("OKR-TRACE-007")
def parts_that_fit_are_taken(subject: Subject) -> None:
    """The smallest trace, prompts of every length, tokens not recorded or dropped, and every kind of pass."""
    from .. import system

    trace = system.traces(0)[0]
    tokens = len(trace.experts)
    fine: dict[str, Parts] = {
        "two tokens": {"token_ids": trace.token_ids[:2], "experts": trace.experts[:1], "prompt_length": 1},
        "no prompt": {"prompt_length": 0},
        "a prompt alone": {"prompt_length": len(trace.token_ids)},
        "token 0 and the largest": {"token_ids": _changed(_changed(trace.token_ids, 0, 0), 1, 2**31 - 1)},
        "a token not recorded": {"experts": _changed(trace.experts, (1, 0), -1)},
        "nothing recorded": {"experts": np.full_like(trace.experts, -1)},
        "a token dropped": {"experts": _changed(trace.experts, (1, 0), -2)},
        "the first and the last expert": {"experts": _changed(trace.experts, (1, 0), (7, 0))},
        "a pass": {"passes": np.array([[1, tokens, tokens]], np.int32)},
        "a pass of a longer sequence": {"passes": np.array([[1, tokens, tokens + 9]], np.int32)},
        "passes of one token each": {"passes": np.array([[tokens, 1, 1]], np.int32)},
        "a pass in front": {"passes": np.array([[1, 0, 5], [1, tokens, tokens]], np.int32)},
        "three runs": {"passes": np.array([[1, 5, 5], [2, 3, 8], [tokens - 11, 1, 12]], np.int32)},
    }
    with system.accepted("a trace whose parts fit"):
        for what, parts in fine.items():
            made = with_parts(trace, parts)
            require_same(what, made, loaded(file_of(made)))
        encoded = system.capacity_traces()[0]
        short = {"encoder_token_ids": encoded.encoder_token_ids[:1], "encoder_experts": encoded.encoder_experts[:1]}
        require_same(
            "an encoder that read one token", with_parts(encoded, short), loaded(file_of(with_parts(encoded, short)))
        )


def with_parts(trace: Any, parts: Parts) -> Any:
    """A trace with other parts, made anew."""
    from ..system import okr

    return okr.Trace(**{name: getattr(trace, name) for name in PARTS} | parts)


def require_same(what: str, trace: Any, other: Any) -> None:
    """Violation unless two traces are equal in every part, and of one digest."""
    for name in PARTS:
        first, second = getattr(trace, name), getattr(other, name)
        same = first is second or (type(first) is type(second) and bool(np.array_equal(first, second)))
        if name in ("header", "prompt_length"):
            same = first == second
        elif isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
            same = same and first.dtype == second.dtype
        require(same, f"{what}: {name} changed", expected=first, got=second)
    require(trace.digest() == other.digest(), f"{what}: the digest changed")


@check("OKR-TRACE-002")
def every_kind_of_trace_loads_the_same(subject: Subject) -> None:
    """Zones, strengths, an autocast, an encoder, passes, models of which weights are not known."""
    from .. import system

    trace = system.traces(0)[0]
    kinds = [trace, *system.traces(0, zone="max"), *system.traces(1, strength=1.0), *system.traces(2, keyed=False)]
    kinds += [*system.capacity_traces(), system.monotone_trace()]
    model = trace.header.model
    for changes in (
        {"autocast": "bfloat16"},
        {"autocast": "float16"},
        {"epsilon": float("inf"), "strength": 0.0},
        {"epsilon": 0.0, "zone": "max", "strength": None},
        {"spec_version": "1.0"},
        {"model": model.model_copy(update={"weights": None})},
        {"model": model.model_copy(update={"routers": None})},
        {"key_id": None},
        {"dtype": "bfloat16"},
    ):
        kinds.append(with_parts(trace, {"header": trace.header.model_copy(update=changes)}))
    with system.accepted("a saved trace"):
        for number, made in enumerate(kinds):
            require_same(f"trace {number}", made, loaded(file_of(made)))
