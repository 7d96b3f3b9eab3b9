"""Chapter TRACE: traces of calls that the caller makes itself, or the refusal of these."""

from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_generations import keyed


def decoded(model: Any, ids: Any, mask: Any, new: int, **way: Any) -> tuple[Any, Any]:
    """The sequences and the mask after greedy decoding of ``new`` tokens by calls of the model. ``cache``: each call
    sees what is new, or everything again; ``last``: a further call sees the last token; ``padding``: the position that
    padding has; ``dtype``: that of positions; ``counted``: False leaves them to the model, which counts padding."""
    import torch

    past = None
    for step in range(new + way["last"]):
        places = (mask.cumsum(-1) - 1).masked_fill(mask == 0, way.get("padding", 0)).to(way.get("dtype", torch.long))
        fresh = slice(-1 if past is not None else 0, None)
        given = {"position_ids": places[:, fresh]} if way.get("counted", True) else {}
        with torch.no_grad():
            output = model(
                input_ids=ids[:, fresh], attention_mask=mask, past_key_values=past, use_cache=way["cache"], **given
            )
        past = output.past_key_values if way["cache"] else None
        if step < new:
            ids = torch.cat([ids, output.logits[:, -1:].argmax(-1)], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return ids, mask


def _padded() -> tuple[Any, Any]:
    """Two prompts of 6 and 4 tokens, padded on the left, with their mask."""
    from .. import system

    ids = system.tokens(2, 6, seed=11)
    ids[1, :2] = 0
    return ids, ids.ne(0).long()


_WAYS: tuple[dict[str, Any], ...] = (
    {"cache": True, "last": 0},
    {"cache": False, "last": 0},
    {"cache": True, "last": 1},
    {"cache": False, "last": 1},
)


@check("OKR-TRACE-001")
def loops_of_ones_own_are_recorded(subject: Subject) -> None:
    """With a cache or without, whether or not the last token was shown: the tokens behind the padding, and what ran for
    all but the last of them. A model with one router is recorded like others."""
    import torch

    from .. import system

    for model in (system.softmax_model(), system.scaled_model()):
        with keyed(model) as session:
            for way in _WAYS:
                with system.outputs_of(model) as seen, session.recording() as recording:
                    ids, mask = decoded(model, *_padded(), 4, **way)
                with system.accepted(f"a recording of a loop with {way}"):
                    traces = recording.traces(ids, prompt_length=6, attention_mask=mask)
                lengths = [trace.prompt_length for trace in traces]
                require(lengths == [6, 4], f"the prompts' lengths with {way}", expected=[6, 4], got=lengths)
                _require_ran(model, traces, seen, ids, mask, **way)
            ids = system.tokens(3, 9, seed=14)
            mask = torch.arange(9) < torch.tensor([[9], [6], [2]])
            with system.outputs_of(model) as seen, session.recording() as recording:
                model(input_ids=ids, attention_mask=mask.long())
            with system.accepted("a recording of texts with padding behind them"):
                _require_ran(model, recording.traces(ids, attention_mask=mask), seen, ids, mask, cache=False)


def _require_ran(model: Any, traces: list[Any], seen: dict[str, Any], ids: Any, mask: Any, **way: Any) -> None:
    """Violation unless each trace holds a row of ``ids`` as far as ``mask`` keeps it, and what ran for its tokens."""
    import torch

    from .. import system

    require(len(traces) == len(ids), "one trace for each text", expected=len(ids), got=len(traces))
    for row, trace in enumerate(traces):
        kept = mask[row].nonzero()[:, 0]
        text = ids[row, kept].tolist()
        require(trace.token_ids.tolist() == text, f"token ids with {way}", expected=text, got=trace)
        for index, (site, _) in enumerate(system.routers(model)):
            calls = [output[2].reshape(len(ids), -1, site.top_k)[row] for _, output in seen[site.path]]
            ran = torch.cat(calls) if way["cache"] else calls[-1]
            expected, got = ran[kept[:-1]].tolist(), trace.site_experts(index).tolist()
            require(got == expected, f"{site.path}: experts with {way}", expected=expected, got=got)


@check("OKR-TRACE-001")
def recordings_make_the_traces_that_generations_make(subject: Subject) -> None:
    """Header, tokens, experts and passes, also of prompts of a single token and of models that scale positions by the
    length; nothing that is generated within a recording, or called after it, is part of it. Whoever names neither
    prompt nor mask has given no prompt and no padding."""
    import torch

    from .. import system

    ones = torch.ones(2, 6, dtype=torch.long)
    prompts = (_padded(), (system.tokens(2, 6, seed=12), ones), (system.tokens(2, 1, seed=13), ones[:, :1]))
    for original in (system.softmax_model(), system.growing_model(), system.stretched_model()):
        for (ids, mask), way in zip(prompts, _WAYS[:3], strict=True):
            model = system.copied(original)
            given = {"input_ids": ids, "attention_mask": mask, "use_cache": way["cache"]}
            with keyed(model) as session:
                made = session.generate(**given, max_new_tokens=9, **system.GREEDY)
                with session.recording() as recording:
                    texts, masks = decoded(model, ids, mask, 9, **way)
                    session.generate(ids[:1], max_new_tokens=2, **system.GREEDY)
                system.logits(model, ids)
                with system.accepted("a recording of a loop of one's own"):
                    traces = recording.traces(texts, prompt_length=ids.shape[1], attention_mask=masks)
                    plain = recording.traces(texts) if bool(mask.all()) else []
            wanted, got = [trace.digest() for trace in made.traces], [trace.digest() for trace in traces]
            require(got == wanted, f"another trace with {way}", expected=wanted, got=got)
            require(all(trace.prompt_length == 0 for trace in plain), "a prompt that nobody named", got=plain)


@check("OKR-TRACE-001")
def recordings_that_do_not_fit_are_refused(subject: Subject) -> None:
    """Sequences and masks of another kind or shape than the calls, prompts that are longer than the text, calls that do
    not cover it or have two readings, models with an encoder, blocks that have ended."""
    import torch

    from .. import system
    from ..system import okr

    model, ids = system.softmax_model(), system.tokens(2, 6, seed=11)
    with keyed(model) as session:
        with session.recording() as recording:
            system.logits(model, ids)
        whole: tuple[dict[str, Any], ...] = ({}, {"prompt_length": 0}, {"prompt_length": 6})
        for options in (*whole, {"attention_mask": torch.ones_like(ids)}):
            with system.accepted(f"a recording with {options}"):
                recording.traces(ids, **options)
        others: tuple[Any, ...] = (ids[0], ids[None], ids.float(), ids[:0], ids.tolist())
        wrong: list[tuple[Any, dict[str, Any]]] = [(other, {}) for other in others]
        wrong += [(ids, {"attention_mask": other}) for other in (*others, ids[:, 1:], ids[:1])]
        wrong += [(ids, {"prompt_length": other}) for other in (-1, 7, 99, True, 2.0)]
        for sequences, options in wrong:
            with system.refused(okr.UnsupportedGeneration, f"sequences {sequences} with {options}"):
                recording.traces(sequences, **options)
        _refuses_calls(session, model, ids)
    with system.refused(okr.UnsupportedGeneration, "recording after the block"), session.recording():
        pass
    model = system.capacity_model()
    with keyed(model) as session, session.recording() as recording:
        model(input_ids=ids, decoder_input_ids=ids)
    with system.refused(okr.UnsupportedGeneration, "a recording of a model with an encoder"):
        recording.traces(ids)


def _refuses_calls(session: Any, model: Any, ids: Any) -> None:
    """Violation unless calls that do not cover the text are refused: too short, too long, of fewer texts, more or fewer
    than it has, and calls that may have gone on or begun anew."""
    from .. import system
    from ..system import okr

    several = ((4,), (7,), (9,), (), (5, 5), (6, 6), (2, 4, 6), (3, 1, 1, 1, 1))
    for shown in several:
        with session.recording() as recording:
            for length in shown:
                system.logits(model, system.tokens(2, length))
        with system.refused(okr.UnsupportedRouter, f"calls of {shown} tokens for a text of 6"):
            recording.traces(ids)
    with session.recording() as recording:
        system.logits(model, ids[:1, :5])
    with system.refused(okr.UnsupportedRouter, "calls of one text for two"):
        recording.traces(ids)
    with session.recording() as recording:
        for length in (1, 2):
            system.logits(model, ids[:, :length])
    with system.refused(okr.UnsupportedGeneration, "calls of which nobody can tell what they saw"):
        recording.traces(ids[:, :3])


@check("OKR-TRACE-001")
def routers_in_an_encoder_alone_are_traced(subject: Subject) -> None:
    """What ran in the encoder, and for the text's own tokens nothing, of no router."""
    import torch

    from .. import system
    from ..system import okr

    model, (ids, mask) = system.encoder_model(), system.padded_source()
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 5, **system.GREEDY}
    run = okr.watermark(model, system.key(), epsilon=1.0, zone="boundary")
    with run as session, system.outputs_of(model) as seen, system.accepted("a model whose decoder has no router"):
        made = session.generate(**options)
    ((output,),) = [[output for _, output in calls] for calls in seen.values()]
    ran = system.ran(output, 2)
    for row, trace in enumerate(made.traces):
        expected = ran[row][mask[row].bool()].tolist()
        got = trace.encoder_experts[:, 0].tolist()
        require(got == expected, "the encoder's experts", expected=expected, got=got)
        shape = (len(trace.token_ids) - 1, 0, 0)
        require(trace.experts.shape == shape, "experts of no router", expected=shape, got=trace.experts.shape)
        require(bool(torch.equal(made.sequences[row].int(), torch.from_numpy(trace.token_ids))), "token ids", got=trace)


@check("OKR-TRACE-001")
def padding_may_stand_at_any_position(subject: Subject) -> None:
    """In a model that scales positions by the length, padding at position 0 or 1 changes nothing, not even before a
    text of one token. Tokens whose positions count the padding are refused once the scaling changed between them."""
    import torch

    from .. import system
    from ..system import okr

    mask = torch.arange(6) >= torch.tensor([[0], [5]])
    ids = system.tokens(2, 6, seed=15) * mask
    found: list[list[str]] = []
    for padding in (0, 1):
        model = system.growing_model()
        with keyed(model) as session, session.recording() as recording:
            texts, masks = decoded(model, ids, mask.long(), 9, cache=True, last=0, padding=padding)
        with system.accepted(f"padding at position {padding}"):
            found.append([trace.digest() for trace in recording.traces(texts, attention_mask=masks)])
    require(found[0] == found[1], "another trace with padding at position 1", expected=found[0], got=found[1])
    model = system.growing_model()
    ids, mask = torch.full((1, 14), 3), (torch.arange(14) >= 11).long()[None]
    with keyed(model) as session, session.recording() as recording, torch.no_grad():
        cache = model(input_ids=ids[:, :12], attention_mask=mask[:, :12], use_cache=True).past_key_values
        model(input_ids=ids[:, 12:13], attention_mask=mask[:, :13], past_key_values=cache)
    with system.refused(okr.UnsupportedGeneration, "a scaling that changed behind padding with positions"):
        recording.traces(ids, attention_mask=mask)


@check("OKR-TRACE-001")
def positions_may_be_of_any_dtype(subject: Subject) -> None:
    """Also in a model that longer texts have scaled before."""
    import torch

    from .. import system

    ids = system.tokens(2, 12, seed=16)
    found = []
    for dtype in (torch.long, torch.float32):
        model = system.growing_model()
        system.logits(model, system.tokens(1, 30))
        with keyed(model) as session, session.recording() as recording:
            texts, _ = decoded(model, ids, torch.ones_like(ids), 3, cache=True, last=0, dtype=dtype)
        found.append([trace.digest() for trace in recording.traces(texts)])
    require(found[0] == found[1], "another trace with other numbers as positions", expected=found[0], got=found[1])
