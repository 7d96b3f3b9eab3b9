"""Detects a key from text alone (spec chapter TEXT): does the claimed key predict the text better than decoys do?

The null hypothesis is that the text was made without knowledge of the claimed key. Given the text, the key's
projections are then uniform +1/-1 matrices. So are their images under permutations of columns and changes of signs,
which are the decoys. This is the randomisation test of :mod:`okr.detection.verification` with another statistic.

The statistic of key K is the sum over tokens of log(0.9 p_K + 0.1 q), where q is the mean of p over the claimed key and
all decoys. It is the log-likelihood of text of which one tenth may come from anybody. It is symmetric in the keys, so
the test is exact. For unchanged text log p_K alone would most often rank the true key first, because it orders keys by
their posterior probability. With the tenth of q, a token that K finds impossible costs at most log 10, so single odd
tokens cannot outweigh the rest (docs/detection.md compares statistics).
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
from okr.detection.verification import check_rank_test, z_score
from okr.engines import Engine, Text, prepare
from okr.errors import InvalidSetting, InvalidText
from okr.routing import Key, Setting
from okr.routing.keys import check_key
from okr.routing.settings import ZoneName

FOREIGN = 0.1  # the share of a text that may come from anybody, in the statistic
TokenIds = Any  # a sequence, or one-dimensional array or tensor, of whole numbers


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
    """Test whether a text was sampled under ``key``. Several texts make one pooled test.

    Arguments:
        model: a model, or its engine (:func:`okr.prepare`).
        token_ids: [n], as the model reads them, with its special tokens in front; or a list of such texts. Padding must
            be left out, because it would be judged like any token.
        key: the claimed key.
        epsilon: how much choice score a selection could give up, in the unit of each site, when the text was made.
        zone: the zone then, ``max`` or ``boundary``.
        strength: the strength then. With inf the key alone decided.
        prompt_length: how many tokens of each text are given and not judged. The first token never is.
        source_ids: what an encoder reads. ``token_ids`` then begin with the decoder's start token.
        decoys: how many decoys to compare with.
        alpha: the significance level.
        temperature: that at which the text was sampled, as far as it is known. A wrong one costs power, but p-values
            stay valid.
        rows: how many keys run at a time. Memory grows with it, not with ``decoys``.
        processes: the processes that share the keys.
        advance: called after every pass with how many keys it scored.

    If fewer than LEAST_TOKENS tokens are judged over all texts, the p-value is 1 ("cannot tell"). Raises InvalidKey,
    InvalidText for text that cannot be judged, and InvalidSetting for values out of range.
    """
    check_key(key)
    check_rank_test(decoys, alpha)
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
    """The verdict on the likelihoods ``found``."""
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
    """The statistic of each key: the sum over tokens of log(0.9 p_K / q + 0.1), where q is the mean of p over the
    keys."""
    mean = log_p.logsumexp(0) - math.log(len(log_p))
    return torch.log1p((1 - FOREIGN) * torch.expm1(log_p - mean)).sum(1)


def check_scoring(temperature: float, rows: int) -> None:
    """Raise InvalidSetting unless ``temperature`` is a number above 0 and ``rows`` a whole number of at least 1."""
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise InvalidSetting(f"temperature must be a number > 0, got {temperature}")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InvalidSetting(f"rows must be a whole number >= 1, got {rows}")


def text_seed(key: Key, texts: Sequence[Text]) -> bytes:
    """The seed of the decoys for this key and these texts."""
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
    """The checked texts. Raises InvalidText if this model cannot judge one of them."""
    several = _are_several(token_ids)
    parts = list(token_ids) if several else [token_ids]
    lengths = list(prompt_length) if isinstance(prompt_length, Sequence) else [prompt_length] * len(parts)
    sources = [None] * len(parts) if source_ids is None else list(source_ids) if several else [source_ids]
    if not parts or not len(parts) == len(lengths) == len(sources):
        raise InvalidText(f"{len(parts)} texts, {len(lengths)} prompt lengths and {len(sources)} sources do not match")
    if engine.encoder_decoder == (source_ids is None):
        needs = (
            "needs source_ids, the token ids that its encoder reads"
            if engine.encoder_decoder
            else "has no encoder to read source_ids"
        )
        raise InvalidText(f"{engine.name} {needs}")
    known, room = engine.vocabulary, engine.positions
    return [
        _text(part, length, source, known, room) for part, length, source in zip(parts, lengths, sources, strict=True)
    ]


def _are_several(token_ids: Any) -> bool:
    """Whether ``token_ids`` holds several texts. Tensors without a dimension are numbers, as in ``list(tensor)``."""
    if isinstance(token_ids, np.ndarray | Tensor):
        return token_ids.ndim == 2
    if not isinstance(token_ids, list | tuple) or not token_ids:
        return False
    return not isinstance(token_ids[0], int) and getattr(token_ids[0], "ndim", 1) > 0


def _text(
    tokens: TokenIds, prompt_length: int, source: TokenIds | None, vocabulary: int | None, room: int | None
) -> Text:
    """One checked text. ``vocabulary`` and ``room`` are the model's number of tokens and of positions, or None if they
    are unknown."""
    row = _row("token_ids", tokens, vocabulary)
    if len(row) < 2:
        raise InvalidText(f"a text needs at least two tokens, got {len(row)}")
    if room is not None and len(row) > room + 1:
        raise InvalidText(f"a text of {len(row)} tokens does not fit into the model's {room} positions: split it")
    if isinstance(prompt_length, bool) or not isinstance(prompt_length, int) or not 0 <= prompt_length < len(row):
        raise InvalidText(f"prompt_length must lie between 0 and {len(row) - 1}, got {prompt_length}")
    return Text(row, max(1, prompt_length), None if source is None else _row("source_ids", source, vocabulary))


def _row(name: str, tokens: TokenIds, vocabulary: int | None) -> Tensor:
    """Token ids as an int64 tensor [n]. Raises InvalidText if they are no token ids of the model."""
    try:
        numbers = np.asarray(tokens.cpu() if isinstance(tokens, Tensor) else tokens)
    except (ValueError, TypeError):
        numbers = np.zeros((0, 0))
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise InvalidText(f"{name} must be token ids, at least one, in one dimension, got {type(tokens).__name__}")
    if numbers.min() < 0 or (vocabulary is not None and numbers.max() >= vocabulary):
        most = "" if vocabulary is None else f" and {vocabulary - 1}"
        raise InvalidText(f"{name} must lie between 0{most}: are they another tokenizer's?")
    return torch.from_numpy(numbers.astype(np.int64))
