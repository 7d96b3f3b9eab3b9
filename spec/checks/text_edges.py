"""Chapter TEXT: ties, few opportunities, what nobody names, and refusals in words."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..subject import Subject
from ..verdicts import Violation, require
from . import check
from .text_numbers import detected, likelihoods_of, shared_likelihoods


@contextmanager
def _telling(engine: Any, change: Callable[[Any], Any]) -> Iterator[Any]:
    """The engine, which tells other log probabilities than the model's."""
    own = engine.scoring

    @contextmanager
    def scoring(choosers: Any) -> Iterator[Any]:
        with own(choosers) as score:
            yield lambda text, rows, temperature: change(score(text, rows, temperature))

    engine.scoring = scoring
    try:
        yield engine
    finally:
        del engine.scoring


def _judged(engine: Any, text: list[int], epsilon: float = 1.0, **options: Any) -> Any:
    from .. import system
    from ..system import okr

    given = {"zone": "boundary", "decoys": 9, "alpha": 0.2, **options}
    return okr.detect(engine, text, system.key(), epsilon=epsilon, **given)


def _noise(seed: int) -> Callable[[Any], Any]:
    """Adds what rounding might, another amount in each row of each batch."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return lambda log_p: log_p + 1e-4 * torch.randn(log_p.shape, generator=generator, dtype=log_p.dtype)


@check("OKR-TEXT-001")
def decoys_that_tie_count(subject: Subject) -> None:
    import torch

    from .. import system
    from ..system import okr

    engine, text = okr.prepare(system.outspoken_models()[0]), system.texts(0)[0][:20]
    with _telling(engine, torch.zeros_like):
        got = _judged(engine, text)
    require(got.opportunities > 0 and got.tokens >= 16, "a text with opportunities", got=got)
    fine = got.p_value == 1 and not got.watermarked and got.z == 0
    require(fine, "a key that all decoys tie with", expected="p = 1, z = 0", got=got)


@check("OKR-TEXT-001")
def distances_from_few_decoys(subject: Subject) -> None:
    import torch

    from okr.detection import z_score

    for others, expected in (([1.0], 0.0), ([1.0, 2.0], 2 / 0.5**0.5), ([1.0, 2.0, 3.0], 1.5)):
        got = z_score(3.5, torch.tensor(others, dtype=torch.float64))
        require(abs(got - expected) < 1e-9, f"the distance from {others}", expected=expected, got=got)


@check("OKR-TEXT-005")
def noise_is_no_evidence(subject: Subject) -> None:
    """Without opportunities p is 1 though rounding ranks the key before decoys. With one opportunity p is a rank."""
    from .. import system
    from ..system import okr

    engine, text = okr.prepare(system.outspoken_models()[0]), system.texts(0)[0][:20]
    found = {opportunities: _noisy(engine, text, epsilon) for epsilon, opportunities in _epsilons(engine, text)}
    require(set(found) == {0, 1}, "settings with no opportunity and with one", got=sorted(found))
    for got in found[0]:
        fine = got.p_value == 1 and got.z == 0 and not got.watermarked
        require(fine, "evidence from rounding", expected="p = 1, z = 0", got=got)
    require(any(got.p_value < 1 for got in found[1]), "one opportunity is taken for none", got=found[1])


def _noisy(engine: Any, text: list[int], epsilon: float) -> list[Any]:
    found = []
    for seed in range(3):
        with _telling(engine, _noise(seed)):
            found.append(_judged(engine, text, epsilon))
    return found


def _epsilons(engine: Any, text: list[int]) -> Iterator[tuple[float, int]]:
    """An epsilon without opportunities, and one with a single opportunity, found by halving."""
    least, most = 0.0, 1.0
    yield least, 0
    for _ in range(40):
        epsilon = (least + most) / 2
        count = _judged(engine, text, epsilon, decoys=1, alpha=0.5).opportunities
        if count == 1:
            yield epsilon, 1
            return
        least, most = (epsilon, most) if count == 0 else (least, epsilon)


@check("OKR-TEXT-004")
def processes_may_outnumber_the_work(subject: Subject) -> None:
    """Nine keys are scored two at a time: the sixth process has none of them."""
    import torch

    from okr.detection import draw_decoys

    from .. import system
    from ..system import okr

    model, texts = system.outspoken_models()[0], [system.texts(0)[0][:6], system.texts(0)[1][:4]]
    images = draw_decoys(8, okr.prepare(model).sites, b"seed" * 8)
    whole, shared = (
        likelihoods_of(model, texts, system.key(), images, rows=9),
        shared_likelihoods(model, texts, images, 6),
    )
    require(torch.allclose(shared.keyed, whole.keyed, atol=1e-4), "keys shared by six", got=shared.keyed)
    same = shared.opportunities == whole.opportunities
    require(same, "opportunities", expected=whole.opportunities, got=shared.opportunities)


@check("OKR-TEXT-010")
def what_nobody_names_is_the_default(subject: Subject) -> None:
    from .. import system
    from ..system import okr

    model, text, calls = system.outspoken_models()[0], system.texts(0)[0][:18], list[int]()
    named = {"zone": "max", "strength": float("inf"), "prompt_length": 0, "decoys": 63, "alpha": 0.05}
    expected = okr.detect(model, text, system.key(), epsilon=1.0, temperature=1.0, rows=16, **named)
    with system.accepted("a text, an epsilon and nothing else"):
        got = okr.detect(model, text, system.key(), epsilon=1.0, advance=calls.append)
    require(got == expected, "the defaults", expected=expected, got=got)
    require(calls == [16] * 4, "keys that are scored at a time", expected=[16] * 4, got=calls)


@check("OKR-TEXT-010")
def the_most_decoys_and_the_least_level_are_accepted(subject: Subject) -> None:
    """With a text that is refused: so many decoys take long."""
    from .. import system
    from ..system import okr

    for alpha in (1 / 1_000_001, 1e-6, 0.5):
        with system.refused(okr.InvalidText, f"a text of one token, with 1,000,000 decoys at alpha = {alpha:g}"):
            detected(system.outspoken_models()[0], [5], decoys=1_000_000, alpha=alpha)
    with system.refused(okr.InvalidSetting, "1,000,001 decoys"):
        detected(system.outspoken_models()[0], [5], decoys=1_000_001, alpha=0.5)


@check("OKR-TEXT-013")
def numbers_may_be_of_any_kind(subject: Subject) -> None:
    """Python's, NumPy's, and tensors without a dimension, as iterating over a tensor gives them."""
    import numpy as np
    import torch

    from .. import system

    model, text = system.outspoken_models()[0], system.texts(0)[0][:18]
    one, two = detected(model, text), detected(model, [text, text])
    kinds: tuple[Any, ...] = (int, np.int64, np.array, torch.tensor)
    for first, last in ((kind, other) for kind in kinds for other in kinds if int in (kind, other) or kind is other):
        numbers = [first(text[0]), *text[1:-1], last(text[-1])]
        with system.accepted(f"a text that begins with {first.__name__} and ends with {last.__name__}"):
            require(detected(model, numbers) == one, f"a text with {first.__name__}", expected=one)
            require(detected(model, [numbers, text]) == two, f"two texts, one with {first.__name__}", expected=two)
    with system.accepted("a list of a tensor's numbers"):
        require(detected(model, list(torch.tensor(text))) == one, "a tensor's numbers", expected=one)


@check("OKR-TEXT-010")
def as_many_decoys_as_would_do_are_told(subject: Subject) -> None:
    """Or that none would: with 1,000,000 decoys a p-value is at least 1/1,000,001."""
    from .. import system

    model, none = system.outspoken_models()[0], r"\bout of reach\b.*\b1e-06\b"
    for alpha, decoys, words in (
        (0.05, 18, r"\bat least 19 decoys\b"), (0.001, 9, r"\bat least 999 decoys\b"),
        (1e-6, 9, r"\bat least 999999 decoys\b"), (1e-7, 9, none), (1e-7, 1_000_000, none),
        (1 / 1_000_001.5, 1_000_000, none),
    ):  # fmt: skip
        said = _said(model, [5], "InvalidSetting", decoys=decoys, alpha=alpha)
        require(re.search(words, said) is not None, f"{decoys} decoys at {alpha:g}", expected=words, got=said)


def _said(model: Any, text: Any, kind: str = "InvalidText", **options: Any) -> str:
    """The refusal in words."""
    from ..system import okr

    try:
        got = detected(model, text, **options)
    except getattr(okr, kind) as error:
        return str(error)
    raise Violation("a text that cannot be judged was judged", expected="a refusal", got=str(got))


@check("OKR-TEXT-009")
def refusals_say_what_is_wrong(subject: Subject) -> None:
    """Which argument, which ids there are, and how many tokens have no probability."""
    from .. import system
    from ..system import okr

    decoder, encoder = system.outspoken_models()[0], system.capacity_model()
    both: dict[str, Any] = {"source_ids": [5, 6]}
    for said, words in (
        (_said(decoder, [5, 64]), (r"\btoken_ids\b", r"\b0 and 63\b")),
        (_said(decoder, [5.0, 6.0]), (r"\btoken_ids\b",)),
        (_said(encoder, [0, 64], **both), (r"\btoken_ids\b", r"\b0 and 63\b")),
        (_said(encoder, [0, 6], source_ids=[5, 64]), (r"\bsource_ids\b", r"\b0 and 63\b")),
        (_said(encoder, [0, 6], source_ids=[5.0]), (r"\bsource_ids\b",)),
        (_said(encoder, [0, 6]), (r"\bneeds source_ids\b.* encoder reads$",)),
        (_said(decoder, [5, 6], **both), (r"\bno encoder\b.*\bsource_ids$",)),
    ):
        for word in words:
            require(re.search(word, said) is not None, "a refusal in words", expected=word, got=said)
    with system.damaged(decoder):
        said = _said(decoder, [5, 6, 7])
    require("2 of 2 judged tokens" in said, "tokens without a probability, in words", expected="2 of 2", got=said)
    for ragged in ([5, [6]], [[[5], [6, 7]]]):
        with system.refused(okr.InvalidText, f"{ragged}"):
            detected(decoder, ragged)
    with system.refused(okr.InvalidText, "a source of texts"):
        detected(encoder, [0, 6], source_ids=[5, [6]])


@check("OKR-TEXT-008")
def too_few_decoys_for_several_texts_are_told(subject: Subject) -> None:
    """Two tests at 0.05 need 39 decoys each, after Holm's correction."""
    from okr.detection import Verdicts

    from .. import system

    verdict = detected(system.outspoken_models()[0], system.texts(0)[0][:18], decoys=1, alpha=0.5)
    for decoys, alpha, count, enough in (
        (38, 0.05, 2, 39), (39, 0.05, 2, None), (40, 0.05, 2, None), (19, 0.05, 1, None), (18, 0.05, 1, 19),
        (1, 0.3, 3, 9), (29, 0.1, 3, None), (28, 0.1, 3, 29), (1, 0.5, 1, None),
    ):  # fmt: skip
        one = replace(verdict, decoys=decoys, alpha=alpha)
        said = str(Verdicts((one,) * count, one))
        told = re.findall(r"(\d+) decoys are too few: (\d+) are enough", said)
        expected = [] if enough is None else [(str(decoys), str(enough))]
        require(told == expected, f"{count} tests with {decoys} decoys, in words", expected=expected, got=said)
