"""Chapter TEXT: the forms in which texts may be given, what is refused, and answers in words."""

import math
from typing import Any

import numpy as np

from ..subject import Subject
from ..verdicts import require
from . import check
from .text_numbers import detected


@check("OKR-TEXT-013")
def texts_may_be_given_in_any_form(subject: Subject) -> None:
    import torch

    from .. import system

    model = system.outspoken_models()[0]
    first, second = (text[:20] for text in system.texts(0))
    with system.accepted("a text"):
        one, both = detected(model, first), detected(model, [first, second], prompt_length=[3, 5])
        ones: tuple[Any, ...] = (
            tuple(first),
            np.array(first),
            np.array(first, np.uint8),
            torch.tensor(first),
            [first],
            (first,),
        )
        for number, given in enumerate(ones):
            require(detected(model, given) == one, f"one text, form {number}", expected=one)
        twos: tuple[Any, ...] = ((first, second), np.array([first, second]), torch.tensor([first, second]))
        mixed: tuple[Any, ...] = ([np.array(first), torch.tensor(second)], [tuple(first), second])
        for number, given in enumerate((*twos, *mixed)):
            require(detected(model, given, prompt_length=(3, 5)) == both, f"two texts, form {number}", expected=both)
        same = detected(model, [first, second], prompt_length=4)
        require(same.tokens == 32, "one length of the prompt for two texts", expected=32, got=same.tokens)
        numbers = [np.int64(token) for token in first]
        require(detected(model, numbers) == one, "one text of NumPy's numbers", expected=one)


@check("OKR-TEXT-009")
def edges_are_accepted_and_what_lies_beyond_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model, text = system.outspoken_models()[0], [5, 6, 7, 8]
    with system.accepted("a text at the edge of what can be judged"):
        for given, prompt in (([5, 6], 0), ([0, 63], 1), ([5] * 129, 0), (text, 3)):
            detected(model, given, prompt_length=prompt)
    wrong: dict[str, tuple[Any, dict[str, Any]]] = {
        "130 tokens": ([5] * 130, {}),
        "broken numbers": ([5.0, 6.0, 7.0], {}),
        "letters": ("abc", {}),
        "texts of letters": (["a", "b"], {}),
        "nothing": (None, {}),
        "a number": (7, {}),
        "no texts": ([], {}),
        "a text of no tokens": ([text, []], {}),
        "three dimensions": (np.ones((2, 2, 2), np.int64), {}),
        "token 64 in the second text": ([text, [5, 64]], {}),
        "a prompt below 0": (text, {"prompt_length": -1}),
        "a prompt of a truth": (text, {"prompt_length": True}),
        "a prompt of a broken number": (text, {"prompt_length": 1.0}),
        "two prompts for one text": (text, {"prompt_length": [1, 2]}),
        "one prompt for two texts": ([text, text], {"prompt_length": [1]}),
        "a source that nobody reads": (text, {"source_ids": text}),
    }
    for what, (given, options) in wrong.items():
        with system.refused(okr.InvalidText, what):
            detected(model, given, **options)
    encoding = system.capacity_model()
    sources: dict[str, dict[str, Any]] = {
        "no source": {},
        "a source of no tokens": {"source_ids": []},
        "a source beyond the vocabulary": {"source_ids": [5, 64]},
        "a source below 0": {"source_ids": [-1]},
    }
    for what, options in sources.items():
        with system.refused(okr.InvalidText, f"{what} for an encoder"):
            detected(encoding, text, **options)
    with system.refused(okr.InvalidText, "one source for two texts"):
        detected(encoding, [text, text], source_ids=[text])


@check("OKR-TEXT-010")
def settings_out_of_range_are_refused(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model, text = system.outspoken_models()[0], system.texts(0)[0][:8]
    wrong: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0}, {"temperature": -1.0}, {"temperature": math.inf}, {"temperature": math.nan},
        {"temperature": "hot"}, {"rows": 0}, {"rows": -1}, {"rows": True}, {"rows": 2.0}, {"decoys": 0}, {"decoys": 3},
        {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": math.nan}, {"alpha": 1e-7, "decoys": 1_000_000}, {"epsilon": -1.0},
        {"zone": "middle"}, {"strength": -1.0}, {"decoys": 18, "alpha": 0.05}, {"decoys": 2.5},
    )  # fmt: skip
    for options in wrong:
        with system.refused(okr.InvalidSetting, f"a detection with {options}"):
            detected(model, text, **options)
    with system.accepted("the fewest decoys, and one row"):
        detected(model, text, decoys=19, alpha=0.05)
        detected(model, text, decoys=9, alpha=0.1)
        detected(model, text, decoys=1, alpha=0.5, rows=1, temperature=0.01)
    for other in (None, "key", system.SECRET):
        with system.refused(okr.InvalidKey, f"{type(other).__name__} in place of a key"):
            okr.detect(model, text, other, epsilon=1.0)


@check("OKR-TEXT-006")
def words_say_what_the_numbers_say(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model = system.outspoken_models()[0]
    for text, key, epsilon in (
        (system.texts(0)[0], system.key(), 1.0), (system.texts(0)[0], system.other_keys(1)[0], 1.0),
        (system.texts(0)[0], system.key(), 0.0), (system.texts(0)[0][:9], system.key(), 1.0),
        (system.texts(0)[0][:16], system.key(), 1.0), (system.texts(0)[0][:17], system.key(), 1.0),
    ):  # fmt: skip
        got = okr.detect(model, text, key, epsilon=epsilon, zone="boundary", decoys=99, alpha=0.05)
        said, told = str(got), got.opportunities > 0 and got.tokens >= 16
        require("\n" not in said and "hit rate" not in said, "the verdict in words", got=said)
        unknown, negative = "cannot tell" in said, "not watermarked" in said
        expected = (not told, told and not got.watermarked)
        require((unknown, negative) == expected, "the verdict in words", expected=got, got=said)
        numbers = (key.id, f"p = {got.p_value:.3g}", "0.05", f"z = {got.z:.2f}") if told else ("p = 1",)
        for number in numbers:
            require(number in said, "a number in words", expected=number, got=said)
