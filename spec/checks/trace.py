"""Chapter TRACE."""

import base64
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..subject import Subject
from ..verdicts import Violation, require
from . import check


def _saved(trace: Any) -> tuple[bytes, Any]:
    """A trace's file and what loads from it."""
    from ..system import okr

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.trace"
        trace.save(path)
        return path.read_bytes(), okr.Trace.load(path)


def _all() -> list[Any]:
    from .. import system

    return [t for index in (0, 1) for keyed in (True, False) for t in system.traces(index, keyed=keyed)]


@check("OKR-TRACE-001")
def traces_hold_what_ran(subject: Subject) -> None:
    """Compared with what the routers themselves put out, call by call, over a batch with left padding."""
    import torch

    from .. import system
    from ..system import okr

    for model in system.models():
        ids = system.tokens(2, 6, seed=5)
        mask = torch.ones_like(ids)
        ids[1, :2], mask[1, :2] = 0, 0
        with (
            okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary") as wm,
            system.outputs_of(model) as seen,
        ):
            made = wm.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None
            )
        for row, skip in ((0, 0), (1, 2)):
            trace = made.traces[row]
            expected_ids = made.sequences[row, skip:].tolist()
            require(trace.token_ids.tolist() == expected_ids, "token ids", expected=expected_ids, got=trace.token_ids)
            for index, (site, _) in enumerate(system.routers(model)):
                calls = [output[2].reshape(2, -1, site.top_k)[row] for _, output in seen[site.path]]
                ran = torch.cat(calls)[skip:].tolist()
                got = trace.site_experts(index).tolist()
                require(got == ran, f"{site.path}: experts of sequence {row}", expected=ran, got=got)


_WAYS = st.fixed_dictionaries(
    {
        "use_cache": st.booleans(),
        "num_return_sequences": st.sampled_from((1, 2)),
        "end": st.none() | st.integers(0, 5),
        "by_rule": st.booleans(),
        "seed": st.integers(0, 99),
    }
)


@check("OKR-TRACE-001", lambda: st.tuples(st.sampled_from((0, 1, 2)), _WAYS), share=0.2)
def traces_hold_what_ran_however_it_was_made(subject: Subject, drawn: tuple[int, dict[str, Any]]) -> None:
    """With and without a cache, several texts a prompt, texts that end early, over a batch with left padding.

    ``end``: the new token that the first text has at this place ends every text, in a second run from the same seed: as
    the end-of-sequence token, or by a stopping rule (``by_rule``).
    """
    import torch

    from .. import system
    from ..system import okr

    model, way = system.models()[drawn[0]], dict(drawn[1])
    end, by_rule, seed = (way.pop(name) for name in ("end", "by_rule", "seed"))
    ids = system.tokens(2, 5, seed)
    ids[1, :2] = 0  # padding; the mask follows from it, where none is given
    options = {**system.SAMPLED, **way, "input_ids": ids, "max_new_tokens": 6}
    stop = None
    with okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary") as wm:
        if end is not None:
            torch.manual_seed(seed)
            stop = int(wm.generate(**options).sequences[0, 5 + end])
            options |= {"attention_mask": ids.ne(0).long(), **system.ending(stop, by_rule)}
        torch.manual_seed(seed)
        with system.outputs_of(model) as seen:
            made = wm.generate(**options)
    rows = len(made.sequences)
    for row, (text, trace) in enumerate(zip(made.sequences.tolist(), made.traces, strict=True)):
        first = (0, 2)[row // way["num_return_sequences"]]
        length = text.index(stop, 5) + 1 if stop in text[5:] else len(text)
        require(trace.token_ids.tolist() == text[first:length], "token ids", expected=text[first:length])
        for index, (site, _) in enumerate(system.routers(model)):
            calls = [output[2].reshape(rows, -1, site.top_k)[row] for _, output in seen[site.path]]
            ran = (torch.cat(calls) if way["use_cache"] else calls[-1])[first : length - 1].tolist()
            got = trace.site_experts(index).tolist()
            require(got == ran, f"{site.path}: experts of sequence {row}", expected=ran, got=got)


@check("OKR-TRACE-001")
def traces_hold_what_a_capacity_left(subject: Subject) -> None:
    """The same for routers that drop tokens beyond an expert's capacity: encoder and decoder, with right padding; from
    the decoder's first token, and two texts each from a prompt of the decoder."""
    from .. import system

    prompt = system.tokens(2, 3, seed=9)
    dropped = 0
    for given, texts in ((1, 1), (3, 2)):
        options = {"decoder_input_ids": prompt, "num_return_sequences": 2, "do_sample": True} if given > 1 else {}
        made, seen = system.capacity_generation(**options)
        for row, trace in enumerate(made.traces):
            require(trace.prompt_length == given, "length of the prompt", expected=given, got=trace.prompt_length)
            dropped += _matches(trace, made.sequences, row, row // texts, seen)
    require(dropped > 0 or not system.capacity_binds(), "no token was dropped, so nothing was tried")


def _matches(trace: Any, sequences: Any, row: int, source_row: int, seen: dict[str, Any]) -> int:
    """Violation unless the trace of an encoder-decoder is what its routers put out; how many tokens were dropped."""
    import torch

    from .. import system

    (ids, mask), sequence, dropped = system.padded_source(), sequences[row], 0
    require(trace.token_ids.tolist() == sequence.tolist(), "token ids", expected=sequence, got=trace.token_ids)
    source = ids[source_row, mask[source_row].bool()].tolist()
    require(trace.encoder_token_ids.tolist() == source, "token ids of the encoder", expected=source)
    for index, (site, _) in enumerate(system.routers(system.capacity_model())):
        inner = site.stack != "encoder"
        rows, own = (len(sequences), row) if inner else (len(ids), source_row)
        ran = torch.cat([system.ran(output, rows)[own] for _, output in seen[site.path]])
        expected = (ran if inner else ran[mask[source_row].bool()]).tolist()
        got = trace.site_experts(index).tolist()
        require(got == expected, f"{site.path}: experts of sequence {row}", expected=expected, got=got)
        dropped += expected.count([-2])
    return dropped


@check("OKR-TRACE-002")
def saved_traces_load_the_same(subject: Subject) -> None:
    for trace in _all():
        loaded = _saved(trace)[1]
        require(loaded.header == trace.header, "the header changed", expected=trace.header, got=loaded.header)
        same = (loaded.token_ids == trace.token_ids).all() and (loaded.experts == trace.experts).all()
        require(bool(same) and loaded.digest() == trace.digest(), "tokens or experts changed")


@check("OKR-TRACE-003")
def headers_say_how_they_were_made(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    for index, model in enumerate(system.models()):
        keyed, native = (system.traces(index, keyed=k)[0].header for k in (True, False))
        expected = (okr.SPEC_VERSION, system.key().id, "boundary", system.epsilon_of(model), float("inf"), "float32")
        got = (keyed.spec_version, keyed.key_id, keyed.zone, keyed.epsilon, keyed.strength, keyed.dtype)
        require(got == expected, "header of a keyed trace", expected=expected, got=got)
        none = (native.key_id, native.zone, native.epsilon, native.strength)
        require(none == (None,) * 4, "header of a native trace", expected="no key, no setting", got=none)
        require(_autocast_named(model) == ("bfloat16", None), "the autocast that a trace was made under")
        require(keyed.model == native.model and keyed.model is not None, "the model's identity")
        sites = [(s.path, s.num_experts, s.top_k) for s in keyed.sites]
        expected_sites = [(s.path, s.num_experts, s.top_k) for s, _ in system.routers(model)]
        require(sites == expected_sites, "the recorded sites", expected=expected_sites, got=sites)


def _autocast_named(model: Any) -> tuple[str | None, ...]:
    """What headers say of generations under autocast and without it."""
    import torch

    from .. import system
    from ..system import okr

    names = []
    for on in (True, False):
        with (
            okr.watermark(model, system.key(), epsilon=system.epsilon_of(model)) as wm,
            torch.autocast("cpu", torch.bfloat16, enabled=on),
        ):
            made = wm.generate(input_ids=system.tokens(1), max_new_tokens=2, **system.GREEDY)
        names.append(made.traces[0].header.autocast)
    return tuple(names)


@check("OKR-TRACE-004")
def the_secret_is_not_in_a_trace(subject: Subject) -> None:
    from .. import system

    secret = system.SECRET
    forms = (secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)[:-4])
    for trace in _all():
        content = _saved(trace)[0] + repr(trace).encode() + trace.header.model_dump_json().encode()
        require(not any(form in content for form in forms), "the secret is in a trace")


@check("OKR-TRACE-005", lambda: st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.booleans()))
def damaged_files_are_refused(subject: Subject, damage: tuple[int, int, bool]) -> None:
    """One byte replaced, or the file cut there."""
    from .. import system
    from ..system import okr

    content = bytearray(_saved(system.traces(0)[0])[0])
    place = damage[0] % len(content)
    if damage[2]:
        content = content[:place]
    else:
        content[place] = damage[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.trace"
        path.write_bytes(bytes(content))
        try:
            trace = okr.Trace.load(path)
        except okr.InvalidTrace as error:
            require("\n" not in str(error), "the error is more than one line", got=str(error))
            return
        except Exception as error:
            raise Violation(f"byte {place}: {type(error).__name__} instead of InvalidTrace: {error}") from error
    sites = len(trace.header.sites)
    require(trace.experts.shape[:2] == (len(trace.token_ids) - 1, sites), "an inconsistent trace was loaded")


def _repeated(trace: Any, times: int) -> Any:
    """A long trace: what ran in a short one, over and over."""
    tokens = np.concatenate([np.tile(trace.token_ids[:-1], times), trace.token_ids[-1:]])
    return replace(trace, token_ids=tokens, experts=np.tile(trace.experts, (times, 1, 1)))


@check("OKR-TRACE-006")
def traces_are_small(subject: Subject) -> None:
    """Long ones beside short ones, in which the allowance for the header would hide any integers."""
    for trace in (part for short in _all() for part in (short, _repeated(short, 300))):
        size = len(_saved(trace)[0])
        bound = 2 * trace.experts.size + 4 * trace.token_ids.size + 16 * 1024
        require(size <= bound, "the file is too large", expected=f"<= {bound} bytes", got=size)
