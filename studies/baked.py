"""What a key in the weights costs and proves, beside live keying, on both embedded models in float32.

    python studies/baked.py --json docs/data/baked.json

Cost: what held-out passages lose, in nats per token, over three keys; 95% interval by bootstrap over passages. Traces:
texts that the baked model sampled, each with a prompt of its own, eight under one key, recorded natively and judged one
by one with the *original* model, prompts left out. The row "none" has the unbaked model's traces, judged at the first
strength. Intervals of shares are Clopper-Pearson's (95%). Prints a Markdown table.
"""

import argparse
import copy
import json
import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import short_traces
import torch
from common import worked
from scipy.stats import bootstrap

import okr
from okr.baking import Checkpoint, Gates, measure, texts_of
from okr.baking.arithmetic import step, with_key
from okr.baking.models import UnbakedEngine, checkpoint_folder
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.loaders.prediction import passage_loss
from okr.pages.markdown import rows_table
from okr.routing import Setting

STRENGTHS = {"tiny-deepseek-moe": (0.05, 0.1, 0.15, 0.2, 0.35), "tiny-switch": (2.0, 4.0, 6.0, 8.0)}
KEYS, PASSAGES, MEASURED = 3, 100, 16


class Models:
    """One embedded model twice: the original, and a copy whose gates change."""

    def __init__(self, name: str) -> None:
        self.name, self.original = name, okr.load(name)
        texts = texts_of(self.original, [passage.text for passage in passages(MEASURED)])
        checkpoint = Checkpoint(checkpoint_folder(name))
        self.engine = okr.prepare(self.original.model)
        self.gates: Gates = measure(self.engine, checkpoint, name, texts)
        self.copy = Loaded(copy.deepcopy(self.original.model), self.original.tokenizer, name)

    def bake(self, key: okr.Key | None, strength: float) -> Loaded:
        """The copy under a key; None: as it was."""
        for gate in self.gates.gates:
            weight = self.original.model.get_parameter(gate.parameter).detach()
            if key is not None:
                weight = with_key(weight, torch.from_numpy(gate.signs(key)), step(strength, gate.norm))
            with torch.no_grad():
                self.copy.model.get_parameter(gate.parameter).copy_(weight)
        return self.copy


def cost(models: Models, strength: float, passages_read: int) -> dict[str, Any]:
    """Nats per token that baked and live keying lose on held-out passages."""
    texts = [passage.text for passage in passages(200)[-passages_read:]]
    native = np.array([passage_loss(models.bake(None, 0), text)[0] for text in texts])
    baked, live = [], []
    for number in range(KEYS):
        key = okr.Key.public(f"baked {number}")
        loaded = models.bake(key, strength)
        baked.append([passage_loss(loaded, text)[0] for text in texts] - native)
        with okr.watermark(models.engine, key, epsilon=math.inf, zone="boundary", strength=strength):
            live.append([passage_loss(models.original, text)[0] for text in texts] - native)
    return {"baked": interval(np.mean(baked, 0)), "live": interval(np.mean(live, 0))}


def interval(sample: np.ndarray) -> list[float]:
    """The mean and its 95% percentile bootstrap interval."""
    found = bootstrap([sample], np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return [round(float(value), 5) for value in (sample.mean(), found.low, found.high)]


def traces(models: Models, strength: float, texts: int, *, keyed: bool) -> dict[str, Any]:
    """What traces of the baked model prove; with ``keyed`` false, those of the original."""
    setting, p, rates, chances = Setting(math.inf, "boundary", strength), [], [], []
    for first in range(0, texts, short_traces.BATCH):
        key = okr.Key.public(f"baked traces {first}")
        loaded = models.bake(key if keyed else None, strength)
        judge = UnbakedEngine(models.original.model, okr.prepare(loaded.model).identity())
        for trace in sampled(loaded, first, min(short_traces.BATCH, texts - first)):
            p.append(short_traces.p_values(judge, setting, key, trace))
            verdict = okr.verify(judge, trace, key, skip_prompt=True, decoys=99, **vars(setting))
            rates.append(verdict.hit_rate or 0.0)
            chances.append(verdict.chance_rate or 0.0)
    found = np.stack(p)
    within, last = found[:, short_traces.WITHIN - 1], found[:, -1]
    return {
        "texts": texts,
        "tokens for 95%": short_traces.needed(found, short_traces.LEVEL, 0.95),
        "proven after 16 (95%)": proven(within, short_traces.LEVEL),
        "p <= 1e-6 after 48": proven(last, 1e-6),
        "largest p": float(f"{last.max():.2g}"),
        "hit rate (chance)": f"{np.mean(rates):.3f} ({np.mean(chances):.3f})",
    }


def proven(p: np.ndarray, level: float) -> str:
    """The share of texts with p at most ``level``, and its interval."""
    value, low, high = share(int((p <= level).sum()), len(p))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def sampled(loaded: Loaded, first: int, count: int) -> Sequence[okr.Trace]:
    """Traces of a batch that the model sampled, recorded natively."""
    prompts = [passage.text for passage in passages(200)[first : first + count]]
    inputs = torch.tensor([loaded.tokenizer(prompt)["input_ids"][:24] for prompt in prompts])
    torch.manual_seed(first)
    with okr.record(loaded.model) as recorder:
        return recorder.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_k=0,
            temperature=short_traces.TEMPERATURES[loaded.source], max_new_tokens=short_traces.NEW_TOKENS,
            min_new_tokens=short_traces.NEW_TOKENS,
        ).traces  # fmt: skip


def row(name: str, strength: float | None, found: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    head = {"model": name, "strength": "none" if strength is None else strength}
    costs = {f"cost {way}": f"{c[0]:.4f} ({c[1]:.4f} to {c[2]:.4f})" for way, c in found.get("cost", {}).items()}
    return head | (costs or {"cost baked": "-", "cost live": "-"}) | found["traces"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--passages", type=int, default=PASSAGES)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    opened = cache(Models)

    def figures_of(name: str, strength: float | None) -> dict[str, Any]:
        models = opened(name)
        used = STRENGTHS[name][0] if strength is None else strength
        found = {"traces": traces(models, used, arguments.texts, keyed=strength is not None)}
        return found if strength is None else found | {"cost": cost(models, used, arguments.passages)}

    wanted = [(name, strength) for name, strengths in STRENGTHS.items() for strength in (None, *strengths)]
    tasks = {f"{name}/{strength}": partial(figures_of, name, strength) for name, strength in wanted}
    done = worked(arguments.json, {"texts": arguments.texts, "passages": arguments.passages}, tasks)
    if done is None:
        return
    lines = [row(name, strength, done.results[f"{name}/{strength}"]) for name, strength in wanted]
    print(rows_table(lines))
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"machine": done.machine, "rows": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
