"""Chapter EVIDENCE, on where a key acted: drawn passages of one trace, and what replays seldom show, by the oracle."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import evidence, oracle, windows
from ..cases import Routed, Setting
from ..subject import Subject
from ..verdicts import Violation, require
from . import check

_SIZE, _SECRET = 16, bytes(range(16))
_PULL = {"any": 0.0, "weak": 0.2, "keyed": 0.6, "strong": 3.0}
"""How much a state leans towards the experts that were swapped in, by kind of passage."""

_HARD = Setting(2, math.inf, "boundary", math.inf)
_PASSAGES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 9999),
        "passages": st.lists(
            st.tuples(st.sampled_from((*_PULL, "strong", "weak", "native", "lost")), st.integers(1, 5)),
            min_size=1,
            max_size=8,
        ),
        "zone": st.sampled_from(("boundary", "max")),
        "epsilon": st.sampled_from((1.0, math.inf)),
        "strength": st.sampled_from((0.125, math.inf)),
        "skip": st.sampled_from((0, 0, 2)),
        "encoder": st.booleans(),
    }
)


def _site(
    numbers: Any, layer: int, kinds: list[str], top_k: int = 2, experts: int = 6, stack: str = "decoder"
) -> Routed:
    """One site, at which each token is native, lost, or of other experts, towards which its state leans."""
    signs = oracle.projection(_SECRET, stack=stack, layer=layer, hidden_size=_SIZE, num_experts=experts)
    choice = np.round(numbers.normal(0, 1.5, (len(kinds), experts)) * 64) / 64
    hidden = numbers.normal(0, 1, (len(kinds), _SIZE))
    ran = np.array([oracle.native(row, top_k) for row in choice.tolist()], np.int64).reshape(-1, top_k)
    for token, kind in enumerate(kinds):
        if kind == "lost":
            ran[token] = -1
        elif kind != "native":
            own, ran[token] = ran[token].copy(), numbers.permutation(experts)[:top_k]
            hidden[token] += _PULL[kind] * (signs[:, ran[token]].sum(1) - signs[:, own].sum(1))
    return Routed(stack, layer, choice.astype(np.float32), hidden.astype(np.float32), ran)


def _located(parts: list[Routed], setting: Setting, alpha: float, skip: int = 0) -> Any:
    """What the package says of a trace of which replays show ``parts``."""
    from dataclasses import replace

    from okr.detection import gather_evidence, spans_of
    from okr.routing import Setting as Tested

    from .. import system
    from ..system import okr

    site = next(site for site in okr.discover(system.softmax_model()) if site.keyable)
    tokens = next(len(part.choice) for part in parts if part.stack == "decoder")
    zone: Any = setting.zone
    trace: Any = SimpleNamespace(token_ids=range(tokens + 1), prompt_length=skip)

    def replay(trace: Any, observe: Any) -> None:
        import torch

        for part in parts:
            sizes = {"num_experts": part.choice.shape[1], "top_k": part.experts.shape[1], "hidden_size": _SIZE}
            here = replace(site, stack=part.stack, layer=part.layer, **sizes)
            observe(here, *(torch.from_numpy(array.copy()) for array in (part.choice, part.hidden, part.experts)))

    tested = Tested(setting.epsilon, zone, setting.strength)
    found = gather_evidence(SimpleNamespace(replay=replay), trace, tested, skip_prompt=skip > 0)  # type: ignore[arg-type]
    return spans_of(found, trace, okr.Key(_SECRET), alpha=alpha, skip_prompt=skip > 0)


def _oracle(parts: list[Routed], setting: Setting, skip: int = 0) -> list[windows.Window] | None:
    """The oracle's windows, in places of the trace; None if a run of tokens is in doubt."""
    judged = _judged(parts, skip)
    try:
        found = windows.windows(judged, _SECRET, setting)
    except ValueError:
        return None
    return [windows.Window(one.start + skip, one.end + skip, one.p_value) for one in found]


def _judged(parts: list[Routed], skip: int) -> list[Routed]:
    decoder = [part for part in parts if part.stack == "decoder"]
    return [Routed(p.stack, p.layer, p.choice[skip:], p.hidden[skip:], p.experts[skip:]) for p in decoder]


def _require_smallest(what: str, parts: list[Routed], setting: Setting) -> None:
    """Violation unless the smallest p-value of all windows is the oracle's."""
    found = _oracle(parts, setting)
    require(found is not None, f"{what}: a run of tokens in doubt")
    least = min((window.p_value for window in found or ()), default=1.0)
    evidence.require_close(f"{what}: smallest p-value", least, _located(parts, setting, 0.01).p_value)


def _require_spans(what: str, parts: list[Routed], setting: Setting, *alphas: float, skip: int = 0) -> None:
    """Violation unless the spans, their p-values and the swaps of each token are the oracle's."""
    found = _oracle(parts, setting, skip)
    if found is None:
        return
    counts = sum((evidence.swap_weights(part, setting) > 0).sum(1) for part in _judged(parts, skip)).tolist()
    for alpha in alphas:
        got = _located(parts, setting, alpha, skip)
        require(list(got.swaps) == counts, f"{what}: swaps by token", expected=counts, got=got.swaps)
        expected = windows.spans(found, alpha)
        right, places = ([(span.start, span.end) for span in spans] for spans in (expected, got.spans))
        require(places == right, f"{what}, alpha {alpha:g}: spans", expected=right, got=places)
        for span, other in zip(expected, got.spans, strict=True):
            evidence.require_close(f"{what}, alpha {alpha:g}: p-value of a span", span.p_value, other.p_value)


@check("OKR-EVIDENCE-010", lambda: _PASSAGES, share=0.5)
def passages_are_found_where_they_are(subject: Subject, drawn: dict[str, Any]) -> None:
    """Keyed, native and other passages side by side, in any setting, with an encoder or without."""
    numbers, skip = np.random.default_rng(drawn["seed"]), drawn["skip"]
    setting = Setting(2, drawn["epsilon"], drawn["zone"], drawn["strength"])
    kinds = [kind for kind, length in drawn["passages"] for _ in range(length)]
    if len(kinds) <= skip:
        return
    parts = [_site(numbers, layer, kinds) for layer in (0, 1)]
    if drawn["encoder"]:
        parts.insert(0, _site(numbers, 0, ["strong"] * 3, stack="encoder"))
    _require_spans("drawn passages", parts, setting, 0.5, 0.03, 1e-5, skip=skip)


def _tokens(*passages: tuple[str, int]) -> list[str]:
    return [kind for kind, length in passages for _ in range(length)]


@check("OKR-EVIDENCE-009")
def far_tokens_make_one_window(subject: Subject) -> None:
    """A text as long as the longest window, and the last tokens of one that is too long to be summed at once."""
    for kinds in (
        _tokens(("keyed", 1), ("lost", 510), ("keyed", 1)),
        _tokens(("lost", 2050), ("keyed", 3), ("lost", 47)),
    ):
        parts = [_site(np.random.default_rng(0), layer, kinds) for layer in (0, 1)]
        _require_smallest(f"{len(kinds)} tokens", parts, _HARD)
        require(_located(parts, _HARD, 0.01).p_value < 0.01, "two tokens far apart show nothing")


@check("OKR-EVIDENCE-009")
def one_token_may_break_a_window(subject: Subject) -> None:
    """Where routers of many experts keep their own for it; nothing lies between tokens side by side."""
    setting, numbers = Setting(8, math.inf, "boundary", math.inf), np.random.default_rng(0)
    for kinds in (
        ["weak", "native", "weak"],
        ["weak", "weak", "native", "strong"],
        ["weak", "native", "weak", "weak", "native"],
    ):
        parts = [_site(numbers, layer, kinds, top_k=8, experts=40) for layer in (0, 1)]
        _require_smallest(f"{len(kinds)} tokens", parts, setting)


@check("OKR-EVIDENCE-010")
def gaps_are_measured_by_both_neighbours(subject: Subject) -> None:
    """Passages that one token shows beside those that need several, with as many tokens between them or more."""
    numbers = np.random.default_rng(0)
    for kinds in (
        _tokens(("strong", 1), ("lost", 1), ("strong", 1), ("lost", 2), ("strong", 1)),
        _tokens(("strong", 1), ("lost", 9), ("weak", 4), ("lost", 2), ("weak", 4)),
        _tokens(("weak", 8), ("lost", 5), ("weak", 8), ("lost", 3), ("strong", 1)),
    ):
        for _ in range(8):
            parts = [_site(numbers, layer, kinds) for layer in (0, 1)]
            _require_spans(f"{len(kinds)} tokens", parts, _HARD, 0.2, 0.04, 0.01)


@check("OKR-EVIDENCE-010")
def the_level_itself_is_small_enough(subject: Subject) -> None:
    parts = [_site(np.random.default_rng(0), layer, ["weak"] * 9) for layer in (0, 1)]
    least = _located(parts, _HARD, 0.5).p_value
    require(0 < least < 1, "evidence in nine tokens", got=least)
    for alpha, count in ((least, 1), (math.nextafter(least, 0), 0)):
        got = _located(parts, _HARD, alpha).spans
        require(len(got) == count, f"spans at a level of {alpha} where the smallest p is {least}", got=got)


@check("OKR-EVIDENCE-009")
def a_text_that_was_all_given_has_no_tokens(subject: Subject) -> None:
    """Its prompt may be as long as it, or as all tokens with routing."""
    parts = [_site(np.random.default_rng(0), layer, ["strong"] * 4) for layer in (0, 1)]
    for skip, tokens in ((3, 1), (4, 0), (5, 0)):
        try:
            got = _located(parts, _HARD, 0.5, skip)
        except ValueError as error:
            raise Violation(f"a prompt of {skip} of 5 tokens: {error}") from error
        require(len(got.swaps) == tokens, "tokens that are looked at", expected=tokens, got=got.swaps)
        require(bool(got.spans) <= bool(tokens), "spans of no tokens", got=got.spans)
