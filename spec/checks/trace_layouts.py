"""Chapter TRACE: arrays of few rows or columns, of routers that keep one expert; texts and pickles in answers."""

import base64
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_answers import (
    NAMED,
    PROMPT,
    a_completion,
    a_generation,
    answer_of,
    generation_of,
    ids_of,
    int32_text,
    layer_columns,
    require_answer,
    trace_of,
    what_ran,
)
from .trace_arrays import EXPERTS, ROUTERS, TOKENS, of_every_layer, rows_of, traced
from .trace_unrouted import DEEP, drawn_experts, require_recorded, warnings

_TEXT = np.arange(30, 30 + TOKENS)


def _own(**fields: Any) -> list[Any]:
    """The sites of the mixed model with other fields."""
    from .. import system
    from ..system import okr

    return [replace(site, **fields) for site in okr.discover(system.mixed_model()) if site.keyable]


def _between(others: list[list[int]], top_k: int = 2) -> Any:
    """An array with a column for each layer: ``others`` in those of layers without a router."""
    chosen = rows_of(np.random.default_rng(3), len(others), 2)[..., :top_k]
    return of_every_layer(chosen, np.array(others)), chosen


def _varying(first: int | None, count: int = 6) -> list[list[int]]:
    """Rows of two numbers of which the second varies, and the first is given or the same as the second."""
    return [[place % EXPERTS if first is None else first, place % EXPERTS] for place in range(1, count + 1)]


@check("OKR-TRACE-008")
def columns_of_other_layers_are_told(subject: Subject) -> None:
    """Constant over four rows, or no choice of experts in any: numbers that are equal in a row, or -1 in it. Warm-up
    rows of 0 to k - 1 everywhere say nothing. Any other column may be a router's."""
    from .. import system
    from ..system import okr

    taken = {
        "constant over four rows": ([[3, 5]] * 4, {}),
        "constant over five rows": ([[3, 5]] * 5, {}),
        "zeros in three rows": ([[0, 0]] * 3, {}),
        "equal numbers in every row": (_varying(None), {}),
        "-1 in every row": (_varying(-1), {}),
        "-1 in two rows": ([[-1, -1]] * 2, {}),
        "-1 in two rows of single experts": ([[-1]] * 2, {"top_k": 1}),
        "constant over four rows of single experts": ([[3]] * 4, {"top_k": 1}),
    }
    for what, (others, fields) in taken.items():
        array, chosen = _between(others, fields.get("top_k", 2))
        with system.accepted(f"columns of other layers {what}"):
            trace = traced(array, _TEXT[: len(array) + 1], sites=_own(**fields))
        require(trace.experts.tolist() == chosen.tolist(), f"{what}: experts", expected=chosen, got=trace.experts)
    refused = {
        "constant over three rows": ([[3, 5]] * 3, {}),
        "of which the first is 0": (_varying(0), {}),
        "of which the first is 1": (_varying(1), {}),
        "that differ in one row": ([[3, 5]] * 5 + [[3, 6]], {}),
        "that differ in the first row": ([[3, 6]] + [[3, 5]] * 5, {}),
        "equal numbers in all rows but one": ([*_varying(None), [1, 2]], {}),
        "of single experts": ([[1], [2], [3], [1], [5]], {"top_k": 1}),
        "of single experts, 0 in three rows": ([[0]] * 3, {"top_k": 1}),
        "of single experts, 0 or -1": ([[0], [-1], [0]], {"top_k": 1}),
    }
    for what, (others, fields) in refused.items():
        array, _ = _between(others, fields.get("top_k", 2))
        with system.refused(okr.InvalidTrace, f"columns of other layers {what}"):
            traced(array, _TEXT[: len(array) + 1], sites=_own(**fields))
    array, chosen = _between([[3, 5]] * 7)
    array[:2], chosen[:2] = (0, 1), (0, 1)
    with system.accepted("columns of other layers with rows of 0 to k - 1 in front"):
        trace = traced(array, _TEXT[:8])
    require(trace.experts.tolist() == chosen.tolist(), "rows of 0 to k - 1 in front", expected=chosen)


@check("OKR-TRACE-008")
def layers_are_those_of_the_model(subject: Subject) -> None:
    """Where its configuration says how many there are: of the text, or of the decoder. Columns that are no such
    layers, and slots without a place, are refused."""
    from .. import system
    from ..system import okr

    model = system.copied(system.mixed_model())
    array, chosen = _between([[3, 5]] * 6)
    for what, config in {
        "a text": SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=5), num_hidden_layers=7),
        "a decoder": SimpleNamespace(num_decoder_layers=5, num_hidden_layers=7),
        "no number of decoder layers": SimpleNamespace(num_decoder_layers=None, num_hidden_layers=5),
    }.items():
        model.config = config
        with system.accepted(f"a column for each layer of a configuration with {what}"):
            trace = traced(array, _TEXT[:7], model)
        require(trace.experts.tolist() == chosen.tolist(), f"{what}: experts", expected=chosen, got=trace.experts)
    with system.accepted("five named columns"):
        trace = traced(array, _TEXT[:7], layers=range(5))
    require(trace.experts.tolist() == chosen.tolist(), "experts of five named columns", got=trace.experts)
    own, single = _own(), array.copy()
    single[:, 3] = (3, 5)
    wrong: dict[str, tuple[Any, dict[str, Any]]] = {
        "a router beyond the last layer": (single, {"sites": [own[0], replace(own[1], layer=5)]}),
        "two routers in a layer": (single, {"sites": [own[0], replace(own[1], layer=1)]}),
        "no place for experts, by layers": (array[..., :0], {}),
        "no place for experts, by routers": (chosen[..., :0], {}),
        "no place for experts, by names": (chosen[..., :0], {"layers": ROUTERS}),
        "three places for experts, by layers": (np.concatenate([array, array[..., :1]], -1), {}),
    }
    for what, (given, options) in wrong.items():
        with system.refused(okr.InvalidTrace, f"an array with {what}"):
            traced(given, _TEXT[:7], **options)


@check("OKR-TRACE-009")
def routers_of_one_or_two_experts_are_judged_alike(subject: Subject) -> None:
    """Slots of one number, of a number beyond the experts, rows of zeros on both sides of 2^-20; a column of single
    experts tells rows apart that are alike elsewhere."""
    tokens = [*range(16)]
    for width in (1, 2):
        array = drawn_experts(16, 5)[..., :width]
        array[2, 1], array[5, 2], array[6, 2], array[7, 3] = EXPERTS, -1, -7, EXPERTS
        if width == 2:
            array[9, 4] = 4
        require_recorded(f"slots of {width}", array, tokens, [width] * DEEP)
    for live in range(6, DEEP + 1):
        array = drawn_experts(16, 6)[..., :1]
        array[3], array[:, live:] = 0, -1
        require_recorded(f"a row of zeros in {live} columns of single experts", array, tokens, [1] * DEEP)
    sizes = [4] * (DEEP - 1) + [1]
    array = drawn_experts(16, 7)
    array[:, -1, 1:] = -1
    array[4] = array[9]
    require_recorded("two rows alike", array, tokens, sizes)
    array[4, -1, 0] = (array[9, -1, 0] + 1) % EXPERTS
    require_recorded("two rows alike but for a single expert", array, tokens, sizes)
    require(_counted(array) is None, "an array of which all is recorded, and a warning")


def _counted(array: Any) -> int | None:
    """How many rows a warning says are left out, of the deep model's; None without a warning."""
    from .. import system
    from ..system import okr

    sizes = [4] * (DEEP - 1) + [1]
    with warnings() as heard, system.accepted("an array of the deep model"):
        sites = [replace(site, top_k=k) for site, k in zip(okr.discover(system.deep_model()), sizes, strict=True)]
        traced(array, np.arange(len(array) + 1), system.deep_model(), sites=sites)
    numbers = [int(word) for text in heard for word in text.replace("(", " ").split() if word.isdigit()]
    return numbers[0] if numbers else None


@check("OKR-TRACE-009")
def a_warning_says_how_many_rows_are_left_out(subject: Subject) -> None:
    """Rows, each once, whatever was wrong with them and however much of them was left out."""
    for wrong in (1, 2, 5):
        array = drawn_experts(16, 8)
        array[:, -1, 1:] = -1
        array[:wrong, 1] = 4
        array[:wrong, 2, 0] = -1
        found = _counted(array)
        require(found == wrong, "how many rows a warning says are left out", expected=wrong, got=found)


class _Said(str):
    """A text that says it has ``signs`` signs."""

    signs = 2**30

    def __len__(self) -> int:
        return self.signs


class _Longer(_Said):
    signs = 2**30 + 1


_OPENED: list[str] = []


def _open() -> int:
    _OPENED.append("opened")
    return 0


class _Trap:
    """Tells when it is unpickled."""

    def __reduce__(self) -> Any:
        return _open, ()


def _pickled(shape: tuple[int, ...]) -> str:
    file = io.BytesIO()
    array = np.empty(shape, object)
    array.fill(_Trap())
    np.lib.format.write_array(file, array, allow_pickle=True)
    return base64.b64encode(file.getvalue()).decode()


@check("OKR-TRACE-010")
def arrays_in_answers_are_read_with_care(subject: Subject) -> None:
    """Nothing is unpickled; a text of more than 2^30 signs is not read; flat arrays of every length are taken or
    refused."""
    from .. import system
    from ..system import okr

    for shape in ((TOKENS, 5, 2), (TOKENS * 10,), ()):
        with system.refused(okr.InvalidTrace, f"experts that are pickled, {shape}"):
            trace_of(answer_of(_pickled(shape)))
    require(not _OPENED, "a pickle in an answer was opened", expected="nothing run", got=_OPENED)
    packed = a_completion()["choices"][0]["routed_experts"]
    with system.accepted("a text of 2^30 signs"):
        require_answer("a text of 2^30 signs", trace_of(answer_of(_Said(packed))), what_ran(), ids_of(), NAMED)
    with system.refused(okr.InvalidTrace, "a text of 2^30 + 1 signs"):
        trace_of(answer_of(_Longer(packed)))
    whole = np.concatenate([layer_columns(), layer_columns()[:1]])
    with system.accepted("a flat array with a row for the last token"):
        require_answer(
            "a row for the last token", trace_of(generation_of(int32_text(whole))), what_ran(), ids_of(), NAMED
        )
    for length in (1, 2, 5, 9, 105, 108, 109, 111, 115, 125, 130):
        with system.refused(okr.InvalidTrace, f"a flat array of {length} experts"):
            trace_of(generation_of(int32_text(np.resize(whole, length))))


@check("OKR-TRACE-010")
def tokens_of_answers_are_whole_numbers(subject: Subject) -> None:
    """As many as there should be, and none of them a number."""
    from .. import system
    from ..system import okr

    given = ids_of()[:PROMPT]
    odd: dict[str, Any] = {
        "texts": [str(token) for token in given],
        "truths": [True] * PROMPT,
        "floats": [float(token) for token in given],
        "floats of NumPy": np.array(given, float),
        "truths of NumPy": np.ones(PROMPT, bool),
        "one text": [*given[:-1], str(given[-1])],
        "one truth": [True, *given[1:]],
        "nothing": [None] * PROMPT,
    }
    for what, ids in odd.items():
        for response in (a_completion(), a_generation()):
            holder = response["choices"][0] if "choices" in response else response
            holder["prompt_token_ids" if "choices" in response else "input_ids"] = ids
            with system.refused(okr.InvalidTrace, f"a prompt of {what}"):
                trace_of(response)
