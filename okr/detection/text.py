"""Detection from text alone (spec chapter TEXT): does the claimed key predict the text better than decoy keys do?

Null hypothesis: the text was made without knowledge of the claimed key. Given the text, the key's projections are
then uniform +1/-1 matrices, and so are their images under permutations of columns and changes of their signs (the
decoys): the same randomisation test as :mod:`okr.detection.verification`, with another statistic.

The statistic of key K is the sum over tokens of log(0.9 p_K + 0.1 q), where q is the mean of p over the claimed key and
all decoys: the log-likelihood of text a tenth of which is anybody's. It is symmetric in the keys, so the test stays
exact. For untouched text log p_K itself would rank the key that the text was made under first most often (it is the
posterior of a key drawn at random); with a tenth of q a token that K finds impossible costs no more than log 10, so
single odd tokens cannot drown the rest (docs/detection.md has the statistics it was compared with).
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtr
from torch import Tensor, nn

from okr.detection.decoys import draw_decoys
from okr.detection.likelihood import ALONE, Likelihoods, Sharing, likelihoods
from okr.detection.verdict import LEAST_TOKENS, TextVerdict
from okr.detection.verification import check_decoys, z_score
from okr.engines import Engine, Text, prepare
from okr.errors import InvalidSetting, InvalidText
from okr.routing import Key, Setting
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName

FOREIGN = 0.1  # the share of a text that the statistic takes to be anybody's
TokenIds = Any  # a sequence of whole numbers, a one-dimensional array or tensor of them


def detect(
    model: nn.Module | Engine,
    token_ids: TokenIds | Sequence[TokenIds],
    key: Key,
    *,
    epsilon: float,
    zone: ZoneName = "max",
    strength: float = float("inf"),
    prompt_length: int | Sequence[int] = 0,
    source_ids: TokenIds | Sequence[TokenIds] | None = None,
    decoys: int = 63,
    alpha: float = 0.05,
    temperature: float = 1.0,
    rows: int = 16,
    processes: Sharing = ALONE,
    advance: Callable[[int], None] = lambda count: None,
) -> TextVerdict:
    """Whether a text, or several texts pooled into one test, were sampled under ``key``.

    Arguments: ``model``, or what :func:`okr.prepare` made of it; ``token_ids`` [n] as the model reads them (its own
    special tokens in front), or a list of such texts, all without padding, which would be judged like any token;
    ``prompt_length`` tokens of each are given, not judged (at least the first always is); ``source_ids`` is what an
    encoder reads, then ``token_ids`` starts with the decoder's start token. ``temperature`` is the one the text was
    sampled at, as far as known; a wrong one costs power, never validity. ``rows`` keys run side by side: memory grows
    with it, not with ``decoys``. Several ``processes`` share the keys. ``advance`` hears how many keys each pass
    scored.

    With fewer than LEAST_TOKENS judged tokens over all texts the verdict is "cannot tell": p_value is 1.

    Raises InvalidText for text that cannot be judged and InvalidSetting for settings out of range.
    """
    check_key(key)
    check_decoys(decoys, alpha)
    check_scoring(temperature, rows)
    engine = prepare(model)
    setting = Setting.checked(epsilon, zone, strength)
    texts = as_texts(engine, token_ids, prompt_length, source_ids)
    images = draw_decoys(decoys, engine.sites, text_seed(key, texts))
    found = likelihoods(
        engine, texts, key, setting, images,
        temperature=temperature, rows=rows, processes=processes, advance=advance,
    )  # fmt: skip
    return _verdict(found, key, alpha, temperature)


def _verdict(found: Likelihoods, key: Key, alpha: float, temperature: float) -> TextVerdict:
    score = statistic(found.keyed)
    claimed, others = float(score[0]), score[1:]
    enough = found.opportunities > 0 and found.keyed.shape[1] >= LEAST_TOKENS
    p_value = (1 + int((others >= claimed).sum())) / len(score) if enough else 1.0
    z = z_score(claimed, others) if enough else 0.0
    total = float(found.keyed[0].sum())
    return TextVerdict(
        key_id=key.id,
        p_value=p_value,
        exact=True,
        watermarked=p_value <= alpha,
        alpha=alpha,
        decoys=len(others),
        z=z,
        normal_p=float(ndtr(-z)),
        hit_rate=None,
        chance_rate=None,
        opportunities=found.opportunities,
        tokens=found.keyed.shape[1],
        log_likelihood=total,
        log_likelihood_ratio=total - float(found.unkeyed.sum()),
        ratio_null=f"text sampled from the unkeyed model at temperature {temperature:g}, without top-k or top-p",
    )


def statistic(log_p: Float[Tensor, "keys tokens"]) -> Float[Tensor, " keys"]:
    """Sum over tokens of log(0.9 p_K / q + 0.1), q the mean of p over the keys: one number a key, symmetric in them."""
    mean = log_p.logsumexp(0) - math.log(len(log_p))
    return torch.log1p((1 - FOREIGN) * torch.expm1(log_p - mean)).sum(1)


def check_scoring(temperature: float, rows: int) -> None:
    """InvalidSetting unless the temperature is a number above 0 and at least one key runs at a time."""
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise InvalidSetting(f"temperature must be a number > 0, got {temperature}")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InvalidSetting(f"rows must be a whole number >= 1, got {rows}")


def text_seed(key: Key, texts: Sequence[Text]) -> bytes:
    """What the decoys of this key and these texts are drawn from."""
    content = hashlib.sha256(key.id.encode())
    for text in texts:
        for part in (text.tokens, torch.tensor([text.prompt_length]), text.source):
            numbers = np.zeros(0, np.int64) if part is None else part.numpy()
            content.update(len(numbers).to_bytes(8, "big") + numbers.tobytes())
    return content.digest()


def as_texts(
    engine: Engine,
    token_ids: TokenIds | Sequence[TokenIds],
    prompt_length: int | Sequence[int],
    source_ids: TokenIds | Sequence[TokenIds] | None,
) -> list[Text]:
    """Checked texts. Raises InvalidText for what this model cannot judge."""
    several = _are_several(token_ids)
    parts = list(token_ids) if several else [token_ids]
    lengths = list(prompt_length) if isinstance(prompt_length, Sequence) else [prompt_length] * len(parts)
    sources = [None] * len(parts) if source_ids is None else list(source_ids) if several else [source_ids]
    if not parts or not len(parts) == len(lengths) == len(sources):
        raise InvalidText(f"{len(parts)} texts, {len(lengths)} prompt lengths and {len(sources)} sources do not match")
    if engine.encoder_decoder == (source_ids is None):
        needs = (
            "needs source_ids, what its encoder reads"
            if engine.encoder_decoder
            else "has no encoder to read source_ids"
        )
        raise InvalidText(f"{engine.name} {needs}")
    known, room = engine.vocabulary, engine.positions
    return [
        _text(part, length, source, known, room) for part, length, source in zip(parts, lengths, sources, strict=True)
    ]


def _are_several(token_ids: Any) -> bool:
    if isinstance(token_ids, np.ndarray | Tensor):
        return token_ids.ndim == 2
    return isinstance(token_ids, list | tuple) and bool(token_ids) and not isinstance(token_ids[0], int | np.integer)


def _text(
    tokens: TokenIds, prompt_length: int, source: TokenIds | None, vocabulary: int | None, room: int | None
) -> Text:
    row = _row("token_ids", tokens, vocabulary)
    if len(row) < 2:
        raise InvalidText(f"a text of {len(row)} tokens says nothing; it needs at least two")
    if room is not None and len(row) > room + 1:
        raise InvalidText(f"a text of {len(row)} tokens does not fit the model's {room} positions; split it")
    if isinstance(prompt_length, bool) or not isinstance(prompt_length, int) or not 0 <= prompt_length < len(row):
        raise InvalidText(f"prompt_length must lie between 0 and {len(row) - 1}, got {prompt_length}")
    return Text(row, max(1, prompt_length), None if source is None else _row("source_ids", source, vocabulary))


def _row(name: str, tokens: TokenIds, vocabulary: int | None) -> Tensor:
    try:
        numbers = np.asarray(tokens.cpu() if isinstance(tokens, Tensor) else tokens)
    except (ValueError, TypeError):
        numbers = np.zeros((0, 0))
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise InvalidText(f"{name} must be token ids, at least one, in one dimension, got {type(tokens).__name__}")
    if numbers.min() < 0 or (vocabulary is not None and numbers.max() >= vocabulary):
        most = "" if vocabulary is None else f" and {vocabulary - 1}"
        raise InvalidText(f"{name} must lie between 0{most}: another tokenizer's?")
    return torch.from_numpy(numbers.astype(np.int64))
