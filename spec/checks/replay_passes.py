"""Chapter REPLAY: models that scale positions by the length, in every way of generating; traces that do not fit."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .replay import replayed_scores


def _fresh(model: Any) -> Any:
    """A copy that has seen no other sequence."""
    from .. import system

    return system.copied(model)


def recovered(model: Any, made: Any, seen: dict[str, Any], firsts: tuple[int, ...], **way: Any) -> None:
    """Violation unless the replay of each trace shows the states that its tokens had. ``firsts``: where in its row
    each text of ``made`` begins; ``way``: ``use_cache`` as in the generation, ``held``: tokens that a cache held."""
    import torch

    from .. import system
    from .weight import choice_scores

    rows, held, fresh = len(made.traces), way.get("held", 0), _fresh(model)
    for row, (first, trace) in enumerate(zip(firsts, made.traces, strict=True)):
        with system.accepted("a replay of what was generated"):
            shown = replayed_scores(fresh, trace)
        for site, module in system.routers(model):
            calls = [given.reshape(rows, -1, site.hidden_size)[row] for given, _ in seen[site.path]]
            states = torch.cat(calls) if way.get("use_cache", True) else calls[-1]
            states = states[first : first + len(trace.token_ids) - 1 - held]
            scores = choice_scores(0, model, module, states).detach()
            for what, was, now in zip(("choice scores", "states"), (scores, states), shown[site.path], strict=True):
                require(len(now) == len(was) + held, f"{site.path}: a replay shows {len(now)} tokens")
                off = float((now[held:] - was).abs().max() / was.abs().max())
                require(off <= 1e-4, f"{site.path}, text {row}: {what} differ", expected="<= 1e-4", got=off)


def _padded() -> Any:
    """Two prompts, of 8 and of 5 tokens, both with padding before them."""
    from .. import system

    ids = system.tokens(2, 9, seed=4)
    ids[0, 0], ids[1, :4] = 0, 0
    return ids


_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("growing", {}),
    ("growing", {"use_cache": False}),
    ("stretched", {"num_return_sequences": 2}),
)


@check("OKR-REPLAY-002")
def replay_recovers_scaled_states_of_batches(subject: Subject) -> None:
    """With padding, with and without a cache, several texts a prompt: in a batch the longest text scales all."""
    from .. import system

    for kind, way in _WAYS:
        original = system.growing_model() if kind == "growing" else system.stretched_model()
        model, each = _fresh(original), way.get("num_return_sequences", 1)
        options = {**system.GREEDY, "input_ids": _padded(), "max_new_tokens": 7, "do_sample": each > 1, **way}
        with _keyed(model) as session, system.outputs_of(model) as seen, system.accepted(f"generating {way}"):
            made = session.generate(**options)
        recovered(original, made, seen, tuple(first for first in (1, 4) for _ in range(each)), **way)


@check("OKR-REPLAY-002")
def replay_recovers_states_of_a_model_that_saw_more(subject: Subject) -> None:
    """Dynamic scaling stays at the longest sequence seen: in a model used before, in a second generation that begins
    where the first ended, and anew from its original length on."""
    from .. import system

    original = system.growing_model()
    model = _fresh(original)
    system.logits(model, system.tokens(1, 30))
    for given, new in ((15, 3), (15, 20), (12, 3), (4, 12)):
        with _keyed(model) as session, system.outputs_of(model) as seen, system.accepted("a model that saw more"):
            made = session.generate(system.tokens(1, given), max_new_tokens=new, **system.GREEDY)
        recovered(original, made, seen, (0,))


@check("OKR-REPLAY-002")
def replay_recovers_states_behind_a_cache(subject: Subject) -> None:
    """A second turn, with what was not recorded run natively, as it ran the first time."""
    import torch

    from .. import system

    for original, held in ((system.growing_model(), 10), (system.growing_model(), 14), (system.softmax_model(), 5)):
        model, ids = _fresh(original), system.tokens(1, held + 4, seed=6)
        with torch.no_grad():
            cache = model(input_ids=ids[:, :held], use_cache=True).past_key_values
        with _keyed(model) as session, system.outputs_of(model) as seen, system.accepted("a second turn"):
            made = session.generate(ids, past_key_values=cache, max_new_tokens=6, **system.GREEDY)
        recovered(original, made, seen, (0,), held=held)


def _keyed(model: Any) -> Any:
    from .. import system
    from ..system import okr

    return okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary")


@check("OKR-REPLAY-001")
def replay_runs_any_experts(subject: Subject) -> None:
    """Experts that no router would choose, the first and the last among them; where nothing was recorded, the
    router's own choice."""
    import numpy as np

    from .. import system

    model, trace = system.softmax_model(), system.traces(0, keyed=False)[0]
    kept, most = trace.experts.shape[2], system.routers(model)[0][0].num_experts
    for first in (0, most - kept):
        experts = np.broadcast_to(np.arange(first, first + kept, dtype=np.int16), trace.experts.shape).copy()
        experts[:7] = -1
        with system.outputs_of(model) as seen, system.accepted("a trace"):
            replayed_scores(model, replace(trace, experts=experts))
        for site, _ in system.routers(model):
            _, (logits, _, ran) = seen[site.path][-1]
            own = logits[:7].topk(kept).indices.tolist()
            wanted = own + experts[7:, 0].tolist()
            require(ran.tolist() == wanted, f"{site.path}: other experts ran", expected=wanted, got=ran.tolist())


@check("OKR-REPLAY-003")
def traces_that_do_not_fit_are_refused(subject: Subject) -> None:
    """One whose sites this model does not have as such, whose tokens it does not know, whose positions it does not
    scale; the last token that it knows is replayed."""
    from .. import system
    from ..system import okr

    model, trace = system.softmax_model(), system.traces(0)[0]
    site = trace.header.sites[-1]
    for change in ({"path": f"{site.path}.other"}, {"num_experts": 9}):
        sites = (*trace.header.sites[:-1], site.model_copy(update=change))
        other = replace(trace, header=trace.header.model_copy(update={"sites": sites}))
        with system.refused(okr.InvalidTrace, f"a trace of a site with {change}"):
            replayed_scores(model, other)
    for token in (63, 64):
        ids = trace.token_ids.copy()
        ids[3] = token
        with (system.accepted if token < 64 else _unknown)(f"token {token} of 64"):
            replayed_scores(model, replace(trace, token_ids=ids))
    source = system.capacity_traces()[0]
    ids = source.encoder_token_ids.copy()
    ids[0] = 64
    with _unknown("an unknown token of a source"):
        replayed_scores(system.capacity_model(), replace(source, encoder_token_ids=ids))
    with _keyed(system.growing_model()) as session:
        scaled = session.generate(system.tokens(1), max_new_tokens=8, **system.GREEDY).traces[0]
    with system.refused(okr.InvalidTrace, "a trace of scaled positions, by a model that scales none"):
        replayed_scores(system.unscaled_model(), scaled)


def _unknown(what: str) -> Any:
    from .. import system
    from ..system import okr

    return system.refused(okr.InvalidTrace, what)


@check("OKR-REPLAY-003")
def a_model_that_keeps_no_cache_is_refused(subject: Subject) -> None:
    """A trace of several passes follows a cache; a model that gives none back would see each pass alone."""
    from .. import system
    from ..system import okr

    model = system.growing_model()
    with _keyed(model) as session:
        trace = session.generate(system.tokens(1), max_new_tokens=8, **system.GREEDY).traces[0]
        short = session.generate(system.tokens(1, 4), max_new_tokens=1, **system.GREEDY).traces[0]
    forgetful = system.growing_model()
    hook = forgetful.register_forward_hook(_without_cache)
    with system.refused(okr.InvalidTrace, "a trace of several passes, by a model without a cache"):
        replayed_scores(forgetful, trace)
    with system.accepted("a trace of one pass, by a model without a cache"):
        replayed_scores(forgetful, short)
    hook.remove()


def _without_cache(model: Any, arguments: Any, output: Any) -> Any:
    output.past_key_values = None
    return output


@check("OKR-REPLAY-004")
def replay_leaves_the_scaling(subject: Subject) -> None:
    """A model that scaled itself to a length stays there, also where a replay fails midway."""
    import torch

    from .. import system

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    model = system.growing_model()
    with _keyed(model) as session:
        trace = session.generate(system.tokens(1), max_new_tokens=8, **system.GREEDY).traces[0]
    for length in (5, 40):
        model.train(length > 5)
        system.logits(model, system.tokens(1, length))
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        before = system.fingerprint(model)
        for failing in (False, True):
            hook = system.routers(model)[-1][1].register_forward_hook(fail) if failing else None
            with suppress(ZeroDivisionError):
                replayed_scores(model, trace)
            if hook is not None:
                hook.remove()
            changed = system.differences(before, system.fingerprint(model))
            changed += [name for name, value in model.named_buffers() if not torch.equal(value, buffers[name])]
            require(not changed, "a replay changed the model", expected="nothing changed", got=changed)
