"""Chapter TEXT: the numbers of a verdict against the oracle's."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..subject import Subject
from ..verdicts import require
from . import check


class _Enough(Exception):
    """Ends a process whose part is known."""


class _Process:
    """One of several processes, whose others' parts are known or still to be found."""

    def __init__(self, rank: int, count: int, others: list[Any]) -> None:
        self.rank, self.count, self.others = rank, count, others

    def gather(self, value: Any) -> list[Any]:
        """All parts, in the order of the processes; the last to come has them."""
        self.others.append(value)
        if len(self.others) < self.count:
            raise _Enough
        return self.others


def _close(what: str, expected: float, got: float, within: float = 1e-3) -> None:
    fine = abs(got - expected) <= within * max(1.0, abs(expected))
    require(fine, what, expected=expected, got=got)


def _statistics(log_p: Any) -> Any:
    """The statistic of each key, float64 [keys]: the sum over tokens of log(0.9 p + 0.1 q)."""
    with np.errstate(over="ignore"):
        largest = log_p.max(0)
        p = np.exp(log_p - largest)
        return (np.log(0.9 * p + 0.1 * p.mean(0)) + largest).sum(1)


def likelihoods_of(model: Any, texts: list[list[int]], key: Any, images: Any, **options: Any) -> Any:
    """The package's likelihoods of texts under images of a key."""
    import torch

    from okr.detection import likelihoods
    from okr.engines import Text
    from okr.routing import Setting

    from .. import system
    from ..system import okr

    engine = okr.prepare(model)
    read = [Text(torch.tensor(text), 1, None) for text in texts]
    setting = Setting(system.epsilon_of(model), "boundary", math.inf)
    return likelihoods(engine, read, key, setting, images, **{"temperature": 1.0, "rows": 7, **options})


@check("OKR-TEXT-001", lambda: st.tuples(st.integers(0, 999), st.integers(1, 30), st.integers(1, 40)), share=0.4)
def statistics_are_the_oracles(subject: Subject, drawn: tuple[int, int, int]) -> None:
    """Up to what all keys share: the package may leave out the sum of log q."""
    import torch

    from okr.detection import statistic, z_score

    seed, keys, tokens = drawn
    numbers = np.random.default_rng(seed)
    log_p = -numbers.exponential(numbers.uniform(0.1, 30), (keys + 1, tokens))
    expected, got = _statistics(log_p), statistic(torch.from_numpy(log_p)).numpy()
    for right, found in zip(expected - expected[0], got - got[0], strict=True):
        _close("the statistic of a key beside the claimed key's", right, found, 1e-9)
    others = numbers.normal(numbers.uniform(-9, 9), 3, keys)
    spread = others.std(ddof=1) if keys > 1 else 0
    right = (2.5 - others.mean()) / spread if spread else 0.0
    _close("the distance from the decoys", right, z_score(2.5, torch.from_numpy(others)), 1e-9)
    _close("the distance from decoys all alike", 0.0, z_score(2.5, torch.ones(keys)), 1e-9)


@check("OKR-TEXT-001")
def p_values_are_the_ranks_of_statistics(subject: Subject) -> None:
    """Of the likelihoods under the same decoys; z follows from them too."""
    from okr.detection import draw_decoys, text_seed
    from okr.engines import Text

    from .. import system
    from ..system import okr

    for index, model in enumerate(system.outspoken_models()):
        for key in (system.key(), *system.other_keys(2)):
            text = system.texts(index)[0][:30]
            images = draw_decoys(39, okr.prepare(model).sites, text_seed(key, _read(text, Text)))
            scores = _statistics(likelihoods_of(model, [text], key, images).keyed.double().numpy())
            got = okr.detect(model, text, key, epsilon=system.epsilon_of(model), zone="boundary", decoys=39, alpha=0.1)
            near = np.abs(scores[1:] - scores[0]) < 1e-4
            least = (1 + int((scores[1:] >= scores[0])[~near].sum())) / 40
            fine = least - 1e-9 <= got.p_value <= least + near.sum() / 40 + 1e-9
            require(fine, f"model {index}: the rank of the statistic", expected=least, got=got.p_value)
            _close("z", (scores[0] - scores[1:].mean()) / scores[1:].std(ddof=1), got.z)
            _close("the normal tail", math.erfc(got.z / math.sqrt(2)) / 2, got.normal_p, 1e-9)
            stated = (got.key_id, got.decoys, got.alpha, got.exact)
            require(stated == (key.id, 39, 0.1, True), "what a verdict repeats", got=stated)


def _read(text: list[int], kind: Callable[..., Any]) -> list[Any]:
    import torch

    return [kind(torch.tensor(text), 1, None)]


@check("OKR-TEXT-004")
def keys_are_scored_alone_as_in_any_company(subject: Subject) -> None:
    """Each decoy by itself, all in one batch, and shared among processes that each score their part."""
    import torch

    from okr.detection import draw_decoys

    from .. import system
    from ..system import okr

    for index, model in enumerate(system.outspoken_models()):
        texts = [system.texts(index)[0][:12], system.texts(index)[1][:9]]
        images = draw_decoys(8, okr.prepare(model).sites, b"seed" * 8)
        whole = likelihoods_of(model, texts, system.key(), images, rows=9)
        require(whole.keyed.shape == (9, 19), "keys and tokens", expected=(9, 19), got=tuple(whole.keyed.shape))
        for number in range(9):
            alone = likelihoods_of(model, texts, system.key(), [part.part(number, number + 1) for part in images])
            for right, found in zip(alone.keyed[0].tolist(), whole.keyed[number].tolist(), strict=True):
                _close(f"log probability under image {number}", right, found)
        calls: list[int] = []
        again = likelihoods_of(model, texts, system.key(), images, rows=4, advance=calls.append)
        require(calls == [4, 4, 1] * 2, "keys that are scored at a time", expected=[4, 4, 1] * 2, got=calls)
        require(torch.allclose(again.keyed, whole.keyed, atol=1e-4), "keys scored four at a time", got=again.keyed)
        for count in (2, 3):
            shared = shared_likelihoods(model, texts, images, count)
            require(torch.allclose(shared.keyed, whole.keyed, atol=1e-4), f"keys shared by {count}", got=shared.keyed)
            same = (shared.opportunities, again.opportunities)
            require(same == (whole.opportunities,) * 2, "opportunities", expected=whole.opportunities, got=same)
        bare = likelihoods_of(model, texts, system.key(), images, unkeyed=False)
        require(bare.unkeyed.numel() == 0, "the unkeyed model ran", got=bare.unkeyed)


def shared_likelihoods(model: Any, texts: list[list[int]], images: Any, count: int) -> Any:
    """What the last of ``count`` processes that share the keys works out."""
    from .. import system

    parts: list[Any] = []
    for rank in range(count):
        try:
            return likelihoods_of(model, texts, system.key(), images, rows=2, processes=_Process(rank, count, parts))
        except _Enough:
            continue
    return None


@check("OKR-TEXT-007")
def likelihoods_are_the_models_own(subject: Subject) -> None:
    """At several temperatures, with the key and without it, of a decoder and of an encoder and a decoder."""
    import torch

    from .. import system
    from ..system import okr

    for index, temperature in ((0, 1.0), (0, 0.7), (1, 2.0)):
        model = system.outspoken_models()[index]
        text = system.texts(index)[0][:20]
        keyed, plain = _own(model, torch.tensor([text]), {}, temperature)
        got = detected(model, text, temperature=temperature)
        _close("log likelihood", keyed, got.log_likelihood)
        _close("log likelihood ratio", keyed - plain, got.log_likelihood_ratio)
    model = system.capacity_model()
    text, source = [0, *system.tokens(1, 17, 3)[0].tolist()], system.tokens(1, 6, 4)[0].tolist()
    keyed, plain = _own(model, torch.tensor([text]), {"input_ids": torch.tensor([source])}, 1.0)
    got = detected(model, text, source_ids=source)
    require(got.tokens == 17, "judged tokens of a decoder", expected=17, got=got.tokens)
    _close("log likelihood of a decoder", keyed, got.log_likelihood)
    _close("log likelihood ratio of a decoder", keyed - plain, got.log_likelihood_ratio)
    two = detected(model, [text, text[:9]], source_ids=[source, source[:3]])
    require(two.tokens == 25, "judged tokens of two texts", expected=25, got=two.tokens)
    engine = okr.prepare(model)
    require(engine.encoder_decoder, "a model with an encoder")


def _own(model: Any, ids: Any, source: dict[str, Any], temperature: float) -> tuple[float, float]:
    """The log likelihoods of all tokens but the first, with the key and without it."""
    import torch

    from .. import system
    from ..system import okr

    given = {**source, "decoder_input_ids": ids} if source else {"input_ids": ids}
    found = []
    with torch.no_grad():
        with okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary"):
            found.append(model(**given).logits)
        found.append(model(**given).logits)
    rows = [(logits.double() / temperature).log_softmax(-1)[0, :-1] for logits in found]
    return tuple(float(row.gather(-1, ids[0, 1:, None]).sum()) for row in rows)  # type: ignore[return-value]


def detected(model: Any, text: Any, **options: Any) -> Any:
    """The verdict on a text under the key of the tests, from nine decoys."""
    from .. import system
    from ..system import okr

    given = {"epsilon": system.epsilon_of(model), "zone": "boundary", "decoys": 9, "alpha": 0.2, **options}
    return okr.detect(model, text, system.key(), **given)
