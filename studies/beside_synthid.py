"""A quiet key and SynthID in the same texts: is each found as often as alone?

    python studies/beside_synthid.py --json docs/data/beside-synthid.json

Texts of tiny-deepseek-moe from the same prompts and seeds: under a quiet key, under transformers' SynthID watermark,
under both, and under neither. Traces are judged by okr.verify without their prompts, texts by SynthID's mean g-value,
ranked among 999 keys of its own kind. Eight texts share a key and a batch. Intervals are Clopper-Pearson's (95%).
"""

import argparse
import json
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from common import worked

import okr
from okr.intervals import mean, share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.pages.markdown import rows_table
from okr.routing import NAMED
from okr.suites.other_watermarks import SYNTHID_DEPTH, SynthId

MODEL = "tiny-deepseek-moe"
SETTING = asdict(NAMED["quiet"])
ARMS = {"both": (True, True), "quiet key": (True, False), "SynthID": (False, True), "neither": (False, False)}
NEW_TOKENS, BATCH, DECOYS = 80, 8, 999


@cache
def model() -> Loaded:
    """The model."""
    return okr.load(MODEL)


def batch(arm: str, first: int) -> dict[str, list[float]]:
    """The p-values of one batch of texts: of their traces and of SynthID."""
    keyed, marked = ARMS[arm]
    loaded, key, synthid = model(), okr.Key.public(f"beside synthid {first}"), SynthId(SYNTHID_DEPTH, first)
    rows = [loaded.tokenizer(passage.text)["input_ids"][:24] for passage in passages(200)[first : first + BATCH]]
    options: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": True,
        "top_k": 0,
    }
    options |= {"watermarking_config": synthid.config()} if marked else {}
    ids = torch.tensor(rows)
    torch.manual_seed(first)
    run = okr.watermark(loaded.model, key, **SETTING) if keyed else okr.record(loaded.model)
    with run as session:
        made = session.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    engine = okr.prepare(loaded.model)
    verdicts = [okr.verify(engine, trace, key, skip_prompt=True, **SETTING) for trace in made.traces]
    texts = [trace.token_ids[24:].tolist() for trace in made.traces]
    return {
        "trace": [verdict.p_value for verdict in verdicts],
        "synthid": synthid.p_values(texts, [NEW_TOKENS], DECOYS)[:, 0].tolist(),
        "mean g": [synthid.mean_g(text) for text in texts],
    }


def row(arm: str, found: list[dict[str, list[float]]]) -> dict[str, Any]:
    """The shares found in one arm."""
    figures: dict[str, Any] = {"texts made under": arm}
    for test, level in (("trace", 1e-6), ("trace", 1e-3), ("synthid", 1e-2), ("synthid", 1e-3)):
        p_values = [p for part in found for p in part[test]]
        value, low, high = share(sum(p <= level * (1 + 1e-9) for p in p_values), len(p_values))
        figures[f"{test}, p <= {level:g} (95%)"] = f"{value:.3f} ({low:.3f} to {high:.3f})"
    value, low, high = mean([g for part in found for g in part["mean g"]])
    return figures | {"mean g (95%)": f"{value:.4f} ({low:.4f} to {high:.4f})"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--texts", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    starts = range(0, arguments.texts, BATCH)
    tasks = {f"{arm}/{first}": partial(batch, arm, first) for arm in ARMS for first in starts}
    done = worked(arguments.json, {"texts": arguments.texts, "new tokens": NEW_TOKENS}, tasks)
    if done is None:
        return
    rows = [row(arm, [done.results[f"{arm}/{first}"] for first in starts]) for arm in ARMS]
    print(rows_table(rows))
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"machine": done.machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
