"""Where a key acted: documents of 200 tokens of which 30% ran under a key.

    python studies/passages.py --json docs/data/passages.json

Documents of tiny-deepseek-moe. In most arms the key is switched on and off during one generation: 60 of 200 tokens run
under it, in one to three passages at random places, each of at least four tokens. The other tokens run natively or
under another key. In the arm "put together" a keyed answer stands between two native answers to other prompts. Twenty
documents share a layout and their keys. Documents without a keyed token are judged under ten keys each, fresh and
not vetted. Intervals are Clopper-Pearson's (95%), those of shares of tokens over documents.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import worked
from transformers import DynamicCache

import okr
from okr.detection import Spans, gather_evidence, spans_of
from okr.engines import Engine
from okr.intervals import mean, share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.pages.markdown import rows_table
from okr.routing import NAMED
from okr.traces import NOT_RECORDED, Trace

MODEL = "tiny-deepseek-moe"
ARMS = {
    "quiet, the rest native": ("quiet", "native"),
    "quiet, the rest under another key": ("quiet", "other"),
    "quiet, put together": ("quiet", "assembled"),
    "loud, the rest native": ("loud", "native"),
}
UNKEYED = {"native": ("quiet", "native"), "under another key": ("quiet", "other")}
TOKENS, PROMPT, KEYED, LEAST, BATCH, KEYS, ALPHA = 200, 16, 60, 4, 20, 10, 0.01
LENGTHS = (("under 10", 0, 10), ("10 to 19", 10, 20), ("20 to 39", 20, 40), ("40 and more", 40, 61))
Document = tuple[Trace, np.ndarray]
"""A trace, and which of its tokens ran under the key [tokens - 1]."""


@cache
def model() -> tuple[Loaded, Engine]:
    """The model, and its engine."""
    loaded = okr.load(MODEL)
    return loaded, okr.prepare(loaded.model)


def layout(seed: int) -> list[tuple[int, bool]]:
    """Lengths of the stretches after the prompt, and whether each is keyed."""
    numbers = np.random.default_rng(seed)
    count = int(numbers.integers(1, 4))
    cuts = np.sort(numbers.choice(KEYED - count * LEAST + 1, count - 1))
    keyed = np.diff([0, *cuts, KEYED - count * LEAST]) + LEAST
    free = TOKENS - PROMPT - KEYED
    gaps = np.diff([0, *np.sort(numbers.integers(1, free + 1, count)), free])
    pairs = zip(gaps.tolist(), [*keyed.tolist(), 0], strict=True)
    return [part for gap, length in pairs for part in ((gap, False), (length, True)) if part[0]]


def prompts(first: int) -> torch.Tensor:
    """The first tokens of as many passages as a batch has, from ``first`` on."""
    texts = [passage.text for passage in passages(200)]
    rows = [model()[0].tokenizer(texts[(first + row) % 200])["input_ids"][:PROMPT] for row in range(BATCH)]
    return torch.tensor(rows)


def mixed(
    stretches: Sequence[tuple[int, okr.Key | None]], setting: str, ids: torch.Tensor, claimed: okr.Key | None = None
) -> list[Document]:
    """One document for each row of ``ids``, generated stretch by stretch, each under its key or natively (None). The
    tokens of the document that ran under ``claimed`` are those in question."""
    engine, cached, parts, keyed = model()[1], DynamicCache(), [], []
    for length, key in stretches:
        before = cached.get_seq_length()
        run = okr.record(engine) if key is None else okr.watermark(engine, key, **asdict(NAMED[setting]))
        with run as session:
            made = session.generate(
                ids, attention_mask=torch.ones_like(ids), past_key_values=cached, do_sample=True, top_k=0,
                max_new_tokens=length, min_new_tokens=length,
            )  # fmt: skip
        ids = made.sequences
        parts.append([trace.experts[before:] for trace in made.traces])
        keyed += [key is not None and key is claimed] * (cached.get_seq_length() - before)
    joined = [np.concatenate(rows) for rows in zip(*parts, strict=True)]
    traces = [replace(t, experts=rows, prompt_length=PROMPT) for t, rows in zip(made.traces, joined, strict=True)]
    return [(trace, np.array(keyed)) for trace in traces]


def assembled(key: okr.Key, setting: str, first: int) -> list[Document]:
    """Documents put together from three answers with their prompts, of which the second ran under ``key``."""
    third = (TOKENS - KEYED) // 2
    lengths, keys = (third, KEYED, TOKENS - KEYED - third), (None, key, None)
    parts = [
        mixed([(length - PROMPT, one)], setting, prompts(first + 67 * place), key)
        for place, (length, one) in enumerate(zip(lengths, keys, strict=True))
    ]
    return [_joined(rows) for rows in zip(*parts, strict=True)]


def _joined(rows: Sequence[Document]) -> Document:
    """The documents one after another. What ran for the last token of each is not known."""
    traces = [trace for trace, _ in rows]
    gap = np.full((1, *traces[0].experts.shape[1:]), NOT_RECORDED, np.int16)
    experts = np.concatenate([part for trace in traces for part in (trace.experts, gap)][:-1])
    keyed = np.concatenate([part for _, mask in rows for part in (mask, [False])][:-1])
    tokens = np.concatenate([trace.token_ids for trace in traces])
    return replace(traces[0], token_ids=tokens, experts=experts), keyed.astype(bool)


def batch(arm: str, first: int) -> dict[str, Any]:
    """What was found in the documents of one batch of an arm."""
    setting, rest = ARMS[arm]
    key, other = (okr.Key.public(f"passages {name} {arm} {first}") for name in ("key", "other"))
    torch.manual_seed(1000 + first)
    if rest == "assembled":
        documents = assembled(key, setting, first)
    else:
        background = other if rest == "other" else None
        stretches = [(length, key if keyed else background) for length, keyed in layout(1000 + first)]
        documents = mixed(stretches, setting, prompts(first), key)
    numbers = asdict(NAMED[setting])
    return {"documents": [judged(okr.locate(model()[1], t, key, **numbers, alpha=ALPHA), m) for t, m in documents]}


def judged(found: Spans, keyed: np.ndarray) -> dict[str, Any]:
    """The spans of one document beside the truth."""
    marked = np.zeros(len(keyed), bool)
    for span in found.spans:
        marked[span.start : span.end] = True
    edges = np.flatnonzero(np.diff([0, *keyed.astype(int), 0])).reshape(-1, 2).tolist()
    return {
        "spans": len(found.spans),
        "false": sum(not keyed[span.start : span.end].any() for span in found.spans),
        "passages": [[end - start, bool(marked[start:end].any())] for start, end in edges],
        "right": float(keyed[marked].mean()) if marked.any() else None,
        "covered": float(marked[keyed].mean()),
    }


def unkeyed(arm: str, first: int) -> dict[str, Any]:
    """The smallest p-values of one batch of documents under twenty keys each, of which none acted."""
    setting, rest = UNKEYED[arm]
    torch.manual_seed(5000 + first)
    other = okr.Key.public(f"passages background {arm} {first}") if rest == "other" else None
    p_values = []
    for row, (trace, _) in enumerate(mixed([(TOKENS - PROMPT, other)], setting, prompts(first))):
        found = gather_evidence(model()[1], trace, NAMED[setting], skip_prompt=False)
        keys = [okr.Key.public(f"passages {arm} {first} {row} {number}") for number in range(KEYS)]
        p_values += [spans_of(found, trace, key, alpha=ALPHA).p_value for key in keys]
    return {"p_values": p_values}


def row(arm: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one arm."""
    documents = [document for part in found for document in part["documents"]]
    passages_found = [passage for document in documents for passage in document["passages"]]
    figures: dict[str, Any] = {"documents": arm, "with a span": _share(d["spans"] > 0 for d in documents)}
    figures["spans"] = sum(d["spans"] for d in documents)
    figures["false spans"] = sum(d["false"] for d in documents)
    figures["documents with a false span"] = _share(d["false"] > 0 for d in documents)
    figures["of the tokens in spans, keyed"] = _mean(d["right"] for d in documents if d["right"] is not None)
    figures["of the keyed tokens, in spans"] = _mean(d["covered"] for d in documents)
    for name, low, high in LENGTHS:
        here = [hit for length, hit in passages_found if low <= length < high]
        figures[f"passages found, {name} tokens"] = _share(here) if here else ""
    return figures


def null_row(arm: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The false alarms of one arm without keyed tokens."""
    p_values = [p for part in found for p in part["p_values"]]
    levels = {f"p <= {level:g}": _share(p <= level for p in p_values) for level in (0.05, ALPHA)}
    return {"documents without a keyed token": arm, "tests": len(p_values), **levels}


def _share(hits: Any) -> str:
    hits = list(hits)
    value, low, high = share(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)}: {value:.3f} ({low:.3f} to {high:.3f})"


def _mean(values: Any) -> str:
    value, low, high = mean(list(values))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--texts", type=int, default=200, help="documents in each arm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    starts = range(0, arguments.texts, BATCH)
    tasks = {f"{arm}/{first}": partial(batch, arm, first) for arm in ARMS for first in starts}
    tasks |= {f"unkeyed {arm}/{first}": partial(unkeyed, arm, first) for arm in UNKEYED for first in starts}
    done = worked(arguments.json, {"documents": arguments.texts, "tokens": TOKENS, "keyed": KEYED}, tasks)
    if done is None:
        return
    rows = [row(arm, [done.results[f"{arm}/{first}"] for first in starts]) for arm in ARMS]
    nulls = [null_row(arm, [done.results[f"unkeyed {arm}/{first}"] for first in starts]) for arm in UNKEYED]
    for table in (rows, nulls):
        print(rows_table(table), end="\n\n")
    if arguments.json:
        figures = {"machine": done.machine, "texts": arguments.texts, "rows": rows, "unkeyed": nulls}
        write_atomically(arguments.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
