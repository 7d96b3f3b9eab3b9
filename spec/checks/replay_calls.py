"""Chapter REPLAY: forwards of one's own, of models of any library."""

import re
from typing import Any

from ..subject import Subject
from ..verdicts import Violation, require
from . import check
from .attach_calls import recorded


@check("OKR-REPLAY-004")
def replays_ask_for_nothing_to_be_kept(subject: Subject) -> None:
    """A model that remembers what it has seen, unless it is asked not to, remembers nothing of a verification or a
    detection."""
    from .. import plain, system
    from ..system import okr
    from .text_numbers import detected

    module, text = plain.Keeping(system.copied(system.softmax_model())), system.tokens(1, 20)
    traces, _ = recorded(module, text)
    seen = module.seen
    with system.served("a model that remembers"):
        okr.verify(module, traces[0], system.key())
        detected(module, text[0])
    require(module.seen == seen, "tokens that it remembers", expected=seen, got=module.seen)


@check("OKR-REPLAY-002")
def replay_recovers_states_whatever_the_positions_count(subject: Subject) -> None:
    """Rotary embeddings of a single layer that lengths scale, in forwards of one's own: models that count the padding
    before every text, and some of nobody's library, which count places; also where they saw 30 tokens before, and a
    text is as long as the shortest that they do not scale back for."""
    from .. import plain, system

    whole = system.single_model()
    ids = system.tokens(2, 24, seed=4)
    ids[0, :3], ids[1, :7] = 0, 0
    none: dict[str, Any] = {}
    masked = {"attention_mask": ids.ne(0).long()}
    ways: tuple[tuple[str, Any, Any, dict[str, Any], tuple[int, ...]], ...] = (
        ("padding that counts", system.copied(whole), ids, masked, (3, 7)),
        ("a model of nobody's library", plain.Plain(system.copied(whole)), system.tokens(2, 20), none, (0, 0)),
        ("a model that takes anything", plain.Several(system.copied(whole)), system.tokens(1, 13), none, (0,)),
        ("a model of broken positions", plain.Measuring(system.copied(whole)), system.tokens(1, 20), none, (0,)),
        ("a model that saw more", _having_seen(30, plain.Measuring), system.tokens(1, 12), none, (0,)),
    )
    for what, model, text, options, firsts in ways:
        with system.served(what):
            traces, seen = recorded(model, text, **options)
        _recovered(what, model, traces, seen, firsts)


def _having_seen(length: int, kind: Any) -> Any:
    """A model of that kind, after a text of that length."""
    import torch

    from .. import system

    model = kind(system.single_model())
    with torch.no_grad():
        model(system.tokens(1, length))
    return model


def _recovered(what: str, model: Any, traces: list[Any], seen: dict[str, Any], firsts: tuple[int, ...]) -> None:
    """Violation unless a replay shows the states that the tokens of each text had, from its first place on."""
    from .. import system
    from .replay import replayed_scores

    for row, (first, trace) in enumerate(zip(firsts, traces, strict=True)):
        with system.served(f"a replay of {what}"):
            shown = replayed_scores(model, trace)
        for site, _ in system.routers(model):
            states = seen[site.path][0][0].reshape(len(traces), -1, site.hidden_size)[row]
            states = states[first : first + len(trace.token_ids) - 1]
            off = float((shown[site.path][1] - states).abs().max() / states.abs().max())
            require(off <= 1e-4, f"{what}: states of text {row}", expected="<= 1e-4", got=off)


@check("OKR-REPLAY-003")
def refusals_say_what_differs(subject: Subject) -> None:
    """Another model; the same with other router weights; the same with others."""
    import torch

    from .. import system

    trace, ways = system.traces(0)[0], {"gate.weight": r"\brouter weights\b", "q_proj.weight": r"\bother weights\b"}
    said = {r"\banother model\b": _refusal(system.scaled_model(), trace)}
    for name, words in ways.items():
        model = system.copied(system.softmax_model())
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if path.endswith(name):
                    parameter.neg_()
        said[words] = _refusal(model, trace)
    for words, got in said.items():
        right = re.search(words, got) and not any(re.search(other, got) for other in ways.values() if other != words)
        require(bool(right), "a refusal in words", expected=words, got=got)


def _refusal(model: Any, trace: Any) -> str:
    """What the refusal of the trace says."""
    from ..system import okr
    from .replay import replayed_scores

    try:
        replayed_scores(model, trace)
    except okr.InvalidTrace as error:
        return str(error)
    raise Violation("another model replays a trace")
