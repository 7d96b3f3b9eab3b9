"""Chapter TRACE: the experts that a serving engine returns, as an array of a row for each token."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..subject import Subject
from ..verdicts import require
from . import check

TOKENS, LAYERS, ROUTERS, TOP_K, EXPERTS = 12, 5, (1, 3), 2, 8
"""Of the texts and of the mixed model."""


def rows_of(numbers: Any, count: int, columns: int, top_k: int = TOP_K) -> Any:
    """Random choices of experts, int64 [count, columns, k], no two rows alike in a column."""
    ranked = numbers.random((count, columns, EXPERTS)).argsort(-1)[..., :top_k]
    ranked[:, :, 0] = (ranked[:, :, 1] + 1 + np.arange(count)[:, None] % 7) % EXPERTS
    return ranked


def traced(array: Any, tokens: Any = None, model: Any = None, **options: Any) -> Any:
    """The trace that the package makes of an array."""
    from .. import system
    from ..system import okr

    ids = np.arange(30, 30 + TOKENS) if tokens is None else tokens
    return okr.Trace.from_routed_experts(ids, array, model=system.mixed_model() if model is None else model, **options)


def of_every_layer(chosen: Any, others: Any) -> Any:
    """A column for each layer: those of the routers, and between them what ``others`` holds [rows, k]."""
    return np.stack([chosen[:, 0] if x == 1 else chosen[:, 1] if x == 3 else others for x in range(LAYERS)], 1)


_LAYOUTS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 999),
        "first": st.none() | st.integers(0, TOKENS - 2),
        "last": st.booleans(),
        "layout": st.sampled_from(("routers", "layers", "constant", "unwritten", "named", "reversed", "more")),
        "kind": st.sampled_from(("uint8", "int8", "int16", "int32", "int64", "uint16", "list")),
        "prompt": st.integers(0, TOKENS),
    }
)


def _laid_out(chosen: Any, way: dict[str, Any], numbers: Any) -> tuple[Any, dict[str, Any]]:
    """The array with the columns of a layout, and the layers that are named for it."""
    layout, constant = way["layout"], np.zeros_like(chosen[:, 0])
    if layout == "routers":
        return chosen, {}
    if layout == "layers":
        return of_every_layer(chosen, constant), {}
    if layout == "constant":
        return of_every_layer(chosen, np.add(constant, (3, 5)) if len(chosen) > 3 else constant), {}
    if layout == "unwritten":
        return of_every_layer(chosen, constant if way["kind"].startswith("u") else constant - 1), {}
    if layout == "named":
        return chosen, {"layers": list(ROUTERS)}
    if layout == "reversed":
        return chosen[:, ::-1], {"layers": np.array(ROUTERS[::-1])}
    extra = rows_of(numbers, len(chosen), 1)
    return np.concatenate([extra, chosen, extra], 1), {"layers": (9, *ROUTERS, 0)}


@check("OKR-TRACE-008", lambda: _LAYOUTS, share=0.3)
def arrays_are_read_as_they_are_laid_out(subject: Subject, way: dict[str, Any]) -> None:
    """Rows from any token on, in any layout and any type that holds the experts."""
    from .. import system

    numbers, first = np.random.default_rng(way["seed"]), way["first"] or 0
    count = TOKENS - first - (not way["last"])
    chosen = rows_of(numbers, count, 2)
    array, named = _laid_out(chosen, way, numbers)
    given = array.tolist() if way["kind"] == "list" else array.astype(way["kind"])
    with system.accepted(f"an array of {count} rows from token {way['first']} on, {way['layout']}"):
        trace = traced(given, first=way["first"], prompt_length=way["prompt"], **named)
    expected = np.full((TOKENS - 1, 2, TOP_K), -1)
    expected[first : first + len(chosen)] = chosen[: TOKENS - 1 - first]
    require(trace.experts.tolist() == expected.tolist(), "experts", expected=expected, got=trace.experts)
    require(trace.experts.dtype == np.int16, "type of the experts", got=trace.experts.dtype)
    require(trace.token_ids.tolist() == [*range(30, 30 + TOKENS)], "token ids", got=trace.token_ids)
    require(trace.prompt_length == way["prompt"], "length of the prompt", got=trace.prompt_length)
    columns = sum(trace.ignored.values())
    require(columns == array.shape[1] - 2, "columns that are ignored", expected=array.shape[1] - 2, got=columns)


@check("OKR-TRACE-008")
def headers_say_what_is_known(subject: Subject) -> None:
    """The model's own header, with the key and the setting that are named; the sites that are asked for alone."""
    from .. import system
    from ..system import okr

    model, chosen = system.mixed_model(), rows_of(np.random.default_rng(0), TOKENS, 2)
    named = {"key_id": system.key().id, "zone": "max", "epsilon": 0.5, "strength": float("inf")}
    sites = [site for site in okr.discover(model) if site.keyable]
    with okr.record(model) as session:
        own = session.generate(system.tokens(1, 4), max_new_tokens=1, **system.GREEDY).traces[0].header
    with system.accepted("an array of routed experts"):
        bare, full = traced(chosen), traced(chosen, **named)
        one = traced(chosen[:, 1:], sites=sites[1:])
        twelve = traced(chosen, model=_routers_alone(), layers=[0, 1])
    require(bare.header == own, "the header where nothing is named", expected=own, got=bare.header)
    require(full.header == own.model_copy(update=named), "the header with a key and a setting", got=full.header)
    require([site.path for site in one.header.sites] == [sites[1].path], "the sites that are asked for")
    require(one.experts.tolist() == chosen[:-1, 1:].tolist(), "experts at the site that is asked for", got=one.experts)
    require(twelve.experts.tolist() == chosen[:-1].tolist(), "experts of a model of routers alone", got=twelve.experts)


def _routers_alone() -> Any:
    from .. import system

    return system.softmax_model()


@check("OKR-TRACE-008")
def other_arrays_are_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    chosen = rows_of(np.random.default_rng(0), TOKENS, 2)
    layers = of_every_layer(chosen, np.zeros_like(chosen[:, 0]))
    busy = of_every_layer(chosen, rows_of(np.random.default_rng(1), TOKENS, 1)[:, 0])
    few = of_every_layer(chosen[:3], np.add(np.zeros_like(chosen[:3, 0]), (3, 5)))
    empty = chosen.copy()
    empty[:, 0] = 4
    wrong: dict[str, tuple[Any, dict[str, Any]]] = {
        "two dimensions": (chosen[..., 0], {}),
        "four dimensions": (chosen[None], {}),
        "floats": (chosen.astype(np.float32), {}),
        "truths": (chosen.astype(bool), {}),
        "rows of different lengths": ([[[1, 2], [3, 4]], [[1, 2]]], {}),
        "nothing": (None, {}),
        "a text": ("experts", {}),
        "one expert for a token": (chosen[..., :1], {}),
        "three experts for a token": (np.concatenate([chosen, chosen[..., :1]], -1), {}),
        "two rows too few": (chosen[:-2], {}),
        "one row too many": (np.concatenate([chosen, chosen[:1]]), {}),
        "rows from before the first token": (chosen[:-1], {"first": -1}),
        "rows beyond the last token": (chosen, {"first": 1}),
        "rows from a truth on": (chosen[:5], {"first": True}),
        "rows from a broken token on": (chosen[:5], {"first": 1.0}),
        "rows from a text on": (chosen[:5], {"first": "1"}),
        "three columns": (layers[:, :3], {}),
        "one column": (layers[:, :1], {}),
        "six columns": (np.concatenate([layers, layers[:, :1]], 1), {}),
        "columns of other layers that are busy": (busy, {}),
        "columns of other layers equal in three rows": (few, {"first": 2}),
        "an empty column beside a filled one": (empty, {}),
        "one layer named for two columns": (chosen, {"layers": [1]}),
        "three layers named for two columns": (chosen, {"layers": [0, 1, 3]}),
        "a layer named twice": (chosen, {"layers": [1, 1]}),
        "a layer named twice beside all that are needed": (layers, {"layers": [0, 1, 0, 3, 4]}),
        "the first layer lacking": (chosen, {"layers": [0, 3]}),
        "the last layer lacking": (chosen, {"layers": [1, 2]}),
        "layers named by a number": (chosen, {"layers": 2}),
        "layers named by texts": (chosen, {"layers": ["1", "3"]}),
        "layers named by broken numbers": (chosen, {"layers": [1.0, 3.0]}),
        "layers named by truths": (chosen, {"layers": [True, 3]}),
        "no sites": (chosen, {"sites": []}),
        "a key id that is none": (chosen, {"key_id": "mine"}),
        "a zone that is none": (chosen, {"zone": "middle"}),
        "an epsilon below 0": (chosen, {"epsilon": -1.0}),
        "a prompt longer than the text": (chosen, {"prompt_length": TOKENS + 1}),
    }
    for what, (array, options) in wrong.items():
        with system.refused(okr.InvalidTrace, f"an array of {what}"):
            traced(array, **options)


@check("OKR-TRACE-008")
def other_token_ids_are_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    chosen = rows_of(np.random.default_rng(0), 3, 2)
    wrong: dict[str, Any] = {
        "one token": [5],
        "no token": [],
        "tokens in two dimensions": [[5, 6, 7]],
        "broken tokens": [5.0, 6.0, 7.0],
        "a token below 0": [5, 6, -1],
        "a token of 2^31": [5, 6, 2**31],
        "texts": ["a", "b", "c"],
        "tokens of different depths": [5, [6, 7]],
    }
    for what, ids in wrong.items():
        with system.refused(okr.InvalidTrace, what):
            traced(chosen[: max(1, len(ids))], ids)
    with system.accepted("the smallest text and the largest tokens"):
        two = traced(chosen[:1], [0, 2**31 - 1])
    require(two.token_ids.tolist() == [0, 2**31 - 1], "token ids", got=two.token_ids)
    encoder = [site for site in okr.discover(system.capacity_model()) if site.keyable]
    for sites in (None, encoder[:1]):
        with system.refused(okr.InvalidTrace, "an array for a model with an encoder"):
            traced(chosen[:, :1, :1], [5, 6, 7], system.capacity_model(), sites=sites)


@check("OKR-TRACE-008")
def types_that_cannot_hold_the_experts_are_refused(subject: Subject) -> None:
    """int8 holds 128 experts, uint8 256."""
    from .. import system
    from ..system import okr

    model, chosen = system.mixed_model(), rows_of(np.random.default_rng(0), TOKENS, 2)
    own = [site for site in okr.discover(model) if site.keyable]
    for kind, most in ((np.int8, 128), (np.uint8, 256)):
        for sites in ([own[0], replace(own[1], num_experts=most)], [replace(site, num_experts=most) for site in own]):
            with system.accepted(f"{kind.__name__} for {most} experts"):
                traced(chosen.astype(kind), sites=sites)
        wide = [replace(own[0], num_experts=most + 1), own[1]]
        with system.refused(okr.InvalidTrace, f"{kind.__name__} for {most + 1} experts"):
            traced(chosen.astype(kind), sites=wide)
