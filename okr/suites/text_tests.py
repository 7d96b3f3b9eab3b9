"""p-values of texts, by method and length.

OKR's is okr.detect's statistic and decoys, drawn in stages: after 9, 19, 49 and so on up to all decoys the claimed key
must be ahead of every one of them, else its text is given up with the level of the last stage it passed. P(p <= 1 / n)
is at most 1 / n at every stage's n, whatever was looked at before (null hypothesis: the text was made without knowledge
of the key). A test of one stage is okr.detect's question whether p = 1 / (decoys + 1).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from okr.detection import draw_decoys, likelihoods, statistic, text_seed
from okr.engines import Engine, Text
from okr.routing import Key, Setting
from okr.suites.samples import SYNTHID_DECOYS, Bench, Made

STAGES = (9, 19, 49, 99, 199, 499)
ROWS = 50


def staged(decoys: int) -> tuple[int, ...]:
    """After how many decoys a text may be given up, the last being all."""
    return (*(stage for stage in STAGES if stage < decoys), decoys)


def okr_p(
    engine: Engine,
    made: Made,
    key: Key,
    setting: Setting,
    *,
    lengths: Sequence[int],
    decoys: int,
    temperature: float,
    stages: Sequence[int] | None = None,
) -> list[float]:
    """The p-value of the first ``lengths`` judged tokens of one text: 1 / (decoys of the last stage passed + 1)."""
    source = None if made.source is None else torch.tensor(made.source)
    text = Text(torch.tensor(made.tokens), made.prompt_length, source)
    images = draw_decoys(decoys, engine.sites, text_seed(key, [text]))
    ends = [min(length, text.scored) for length in lengths]
    found = torch.zeros(0, text.scored, dtype=torch.float64)
    p = [1.0] * len(ends)
    ahead = [True] * len(ends)
    for stage in stages or staged(decoys):
        part = [site.part(len(found), stage + 1) for site in images]
        scored = likelihoods(engine, [text], key, setting, part, temperature=temperature, rows=ROWS, unkeyed=False)
        found = torch.cat([found, scored.keyed])
        for place, end in enumerate(ends):
            score = statistic(found[:, :end])
            ahead[place] &= bool((score[1:] < score[0]).all())
            p[place] = 1 / (stage + 1) if ahead[place] else p[place]
        if not any(ahead):
            break
    return p


def kgw_p(bench: Bench, made: Sequence[Made], index: int, bias: float, lengths: Sequence[int]) -> list[list[float]]:
    """KGW's p-values of the first ``lengths`` judged tokens of texts of batch ``index``: [texts][lengths]."""
    kgw = bench.kgw(index, bias)
    counted = [kgw.counts(text.tokens, text.prompt_length) for text in made]
    return [[kgw.p_value(counts[:length]) for length in lengths] for counts in counted]


def synthid_p(
    bench: Bench, made: Sequence[Made], index: int, method: str, lengths: Sequence[int], decoys: int
) -> list[list[float]]:
    """SynthID's p-values of the first ``lengths`` judged tokens of texts of batch ``index``: [texts][lengths]."""
    found = bench.synthid(index, method).p_values([text.new for text in made], lengths, decoys)
    return [list(map(float, row)) for row in found]


def p_values(
    bench: Bench,
    method: str,
    made: Sequence[Made],
    index: int,
    *,
    bias: float,
    lengths: Sequence[int],
    decoys: int,
) -> Float[np.ndarray, "texts lengths"]:
    """The p-values of texts under the key of ``method`` and batch ``index``. ``bias`` is KGW's; SynthID always has 999
    decoys, they cost next to nothing."""
    if method.startswith("kgw"):
        return np.array(kgw_p(bench, made, index, bias, lengths))
    if method.startswith("synthid"):
        return np.array(synthid_p(bench, made, index, method, lengths, SYNTHID_DECOYS))
    key, setting, temperature = bench.key(index), bench.setting(method), bench.config.temperature
    return np.array(
        [
            okr_p(bench.engine, t, key, setting, lengths=lengths, decoys=decoys, temperature=temperature)
            for t in made
        ]
    )  # fmt: skip
