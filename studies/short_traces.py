"""How surely 32 new tokens prove a key from their trace, on both embedded models, in float32 and bfloat16.

    python studies/short_traces.py --json docs/data/short-traces.json

The setting is the one that --setting names (loud unless it is given), with the values and the temperature of the
models' presets. Every text has a prompt of its own, ten share a key; each
trace is verified alone against 999 decoys, in the dtype that it was made in and in the other. Intervals are
Clopper-Pearson's (95%). Prints a Markdown table.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import worked

import okr
from okr.experiment.presets import PRESETS, Preset
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.pages.markdown import rows_table
from okr.routing import SETTINGS, Setting

MODELS = {"tiny-deepseek-moe": "tiny", "tiny-switch": "tiny-switch"}
DTYPES = ("float32", "bfloat16")
NEW_TOKENS, BATCH, LEVEL = 32, 10, 0.001


def made(loaded: Loaded, preset: Preset, setting: Setting, prompts: list[list[int]]) -> list[tuple[okr.Key, okr.Trace]]:
    """One trace a prompt, and its key."""
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    found = []
    for first in range(0, len(prompts), BATCH):
        key = okr.Key.from_passphrase(f"short traces {first}")
        inputs = torch.tensor(prompts[first : first + BATCH])
        torch.manual_seed(first)
        with okr.watermark(loaded.model, key, **asdict(setting)) as watermark:
            generation = watermark.generate(
                input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_k=0,
                temperature=preset.values.get("temperature", 1.0), **length,
            )  # fmt: skip
        found += [(key, trace) for trace in generation.traces]
    return found


def rows(name: str, texts: int, made_in: Iterable[str] = DTYPES, setting: str = "loud") -> list[dict[str, Any]]:
    """The figures of one model: by dtype of the generation and of the replay."""
    loaded = {dtype: okr.load(name, dtype=dtype) for dtype in DTYPES}
    preset = PRESETS[MODELS[name]]
    prompts = [loaded["float32"].tokenizer(passage.text)["input_ids"][:24] for passage in passages(texts)]
    found = []
    for generated in made_in:
        traces = made(loaded[generated], preset, preset.named[setting], prompts)
        for replayed in DTYPES:
            verdicts = [okr.verify(loaded[replayed].model, trace, key) for key, trace in traces]
            value, low, high = share(sum(verdict.p_value <= LEVEL for verdict in verdicts), texts)
            found.append(
                {
                    "model": name,
                    "made in": generated,
                    "verified in": replayed,
                    "traces": texts,
                    "p <= 0.001 (95%)": f"{value:.3f} ({low:.3f} to {high:.3f})",
                    "largest p": max(verdict.p_value for verdict in verdicts),
                    "mean hit rate": round(sum(verdict.hit_rate for verdict in verdicts) / texts, 4),
                    "least hit rate": round(min(verdict.hit_rate for verdict in verdicts), 4),
                }
            )
    return found


def named_rows(name: str, texts: int, dtype: str, setting: str) -> dict[str, Any]:
    """What a task leaves: the rows of traces made in ``dtype``."""
    return {"rows": rows(name, texts, [dtype], setting)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--setting", choices=SETTINGS, default="loud")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {
        f"{name}/{dtype}": partial(named_rows, name, arguments.texts, dtype, arguments.setting)
        for name in MODELS
        for dtype in DTYPES
    }
    done = worked(
        arguments.json, {"texts": arguments.texts, "new tokens": NEW_TOKENS, "setting": arguments.setting}, tasks
    )
    if done is None:
        return
    figures = {"machine": done.machine, "rows": [row for result in done.results.values() for row in result["rows"]]}
    print(rows_table(figures["rows"]))
    if arguments.json:
        write_atomically(arguments.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
