"""Paraphrase: by two human translators of one book, and by a model the user names.

People did not write under a key, so the human pair cannot be found or missed. What it can show is how much of a text's
evidence would survive such a paraphrase: for each of many keys a method's score of the first translation and of the
second; their correlation over keys is the share of the score's deviation that carries over (1: all, 0: none). Two
unrelated texts give the level that keys share anyway.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from okr.detection import draw_decoys, likelihoods, statistic
from okr.engines import Text
from okr.errors import InvalidConfig, OKRError
from okr.intervals import mean
from okr.jobs.tasks import NotAvailable
from okr.loaders import generation_defaults, load
from okr.suites.cells import Outcome
from okr.suites.figures import Figure
from okr.suites.samples import Bench
from okr.suites.text_tests import ROWS

MOST_BYTES = 50_000_000
KEYS = {True: 24, False: 60}  # True: quick
PAIRS = {True: 4, False: 16}
TOKENS = 120


class Pair(BaseModel):
    """The same passage twice."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    a: str = Field(min_length=1, max_length=100_000)
    b: str = Field(min_length=1, max_length=100_000)


def read_pairs(path: str | None) -> list[Pair]:
    """The pairs of a JSONL file, or the shipped ones. Raises InvalidConfig with the line that is wrong."""
    if path is None:
        text = files("okr.suites").joinpath("data/pairs.jsonl").read_text(encoding="utf-8")
    else:
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise InvalidConfig(f"{path} is larger than {MOST_BYTES // 1_000_000} MB")
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidConfig(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidConfig(f"{path} is not UTF-8 text") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(Pair.model_validate(json.loads(line)))
            except (ValidationError, ValueError, RecursionError):
                raise InvalidConfig(f'{path}, line {number}: expected {{"a": "...", "b": "..."}}') from None
    if len(found) < 3:
        raise InvalidConfig(f"{path} holds {len(found)} pairs: at least 3 are needed")
    return found


def human_cell(bench: Bench, method: str) -> Outcome:
    """How much of ``method``'s evidence carries over from one translation to the other, and to an unrelated text."""
    pairs = read_pairs(bench.options.pairs)[: PAIRS[bench.options.quick]]
    first = [_scores(bench, method, pair.a) for pair in pairs]
    second = [_scores(bench, method, pair.b) for pair in pairs]
    kept = [_correlation(a, b) for a, b in zip(first, second, strict=True)]
    apart = [_correlation(first[place], second[place - 1]) for place in range(len(pairs))]
    figures = []
    for condition, values in (("human paraphrase", kept), ("unrelated text", apart)):
        value, low, high = mean(values)
        figures.append(Figure(measure="evidence carried over", unit="correlation over keys", method=method,
                              condition=condition, value=value, low=low, high=high, samples=len(values)))  # fmt: skip
    return Outcome(figures)


def _scores(bench: Bench, method: str, text: str) -> np.ndarray:
    """The method's score of a text under each of the keys, the same keys for every text."""
    keys = KEYS[bench.options.quick]
    tokenizer = bench.loaded.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS]
    if method.startswith("okr"):
        return _okr_scores(bench, method, ids, keys)
    scores = []
    for number in range(keys):
        if method.startswith("kgw"):
            fresh, hits = bench.kgw(5_000_000 + number, 0.0).counts(ids, 1).sum(0)
            scores.append((hits - 0.5 * fresh) / np.sqrt(max(fresh, 1)))
        else:
            scores.append(float(bench.synthid(5_000_000 + number, method).mean_g(ids)))
    return np.array(scores)


def _okr_scores(bench: Bench, method: str, ids: list[int], keys: int) -> np.ndarray:
    model = bench.loaded.model
    images = draw_decoys(keys - 1, bench.engine.sites, b"paraphrase")
    if model.config.is_encoder_decoder:
        half = len(ids) // 3
        start = generation_defaults(model)["decoder_start_token_id"]
        judged = Text(torch.tensor([start, *ids[half:]]), 1, torch.tensor(ids[:half]))
    else:
        bos = bench.loaded.tokenizer.bos_token_id
        judged = Text(torch.tensor(ids if bos is None else [bos, *ids]), 1, None)
    found = likelihoods(
        bench.engine, [judged], bench.key(5_000_000), bench.setting(method), images,
        temperature=bench.config.temperature, rows=ROWS, unkeyed=False,
    )  # fmt: skip
    return np.asarray(statistic(found.keyed))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if not (a.std() > 0 and b.std() > 0):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


class Paraphraser:
    """A sequence-to-sequence model that rewrites text, sentence group by sentence group."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model, self._tokenizer = _load(name)

    @torch.no_grad()
    def __call__(self, text: str, seed: int) -> str:
        """The model's rewriting of ``text``, sampled. Raises NotAvailable when it writes nothing."""
        limit = 64
        ids = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=448)["input_ids"]
        torch.manual_seed(seed)
        made = []
        for first in range(0, ids.shape[1], limit):
            part = ids[:, first : first + limit]
            row = self._model.generate(
                input_ids=part, attention_mask=torch.ones_like(part), do_sample=True, top_p=0.9,
                max_new_tokens=part.shape[1] + 16, min_new_tokens=part.shape[1] // 2,
            )[0]  # fmt: skip
            made.append(str(self._tokenizer.decode(row, skip_special_tokens=True)))
        if not " ".join(made).strip():
            raise NotAvailable(f"the paraphraser {self.name} wrote nothing")
        return " ".join(made)


def _load(name: str) -> tuple[Any, Any]:
    """The model and its tokenizer. Raises NotAvailable."""
    try:
        loaded = load(name)
    except OKRError as error:
        raise NotAvailable(f"the paraphraser {name} could not be loaded: {error}") from None
    if not loaded.model.config.is_encoder_decoder:
        raise NotAvailable(f"{name} is no sequence-to-sequence model: it cannot paraphrase")
    return loaded.model, loaded.tokenizer
