"""What is left of a key in the weights of tiny-deepseek-moe after a checkpoint was changed, beside live keying.

    python studies/baked_survival.py --json docs/data/baked-survival.json

Each key is baked at `quiet` into a copy, and the copy is changed. Weights: the p-value that `okr inspect` gives,
without and with the original, the larger of two keys'. Traces: texts of 48 new tokens that the changed model sampled,
judged one by one with the *original* model; found at p <= 0.001, with Clopper-Pearson's 95% interval. Live: the same
change of the original model, which then ran under the key. Loss: nats per token on passages that no training saw.
Training: AdamW at 3e-4 on 160 passages, 8 at a time. Prints a Markdown table.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import baked
import numpy as np
import short_traces
import torch
from common import worked
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import okr
from okr.baking.inspection import agreement, evidence
from okr.baking.models import UnbakedEngine
from okr.intervals import share
from okr.jobs.folders import write_atomically
from okr.loaders import Loaded, passages
from okr.loaders.prediction import passage_loss
from okr.pages.markdown import rows_table
from okr.routing import Setting
from okr.routing.named import NAMED

NAME, KEYS, TEXTS, READ = "tiny-deepseek-moe", 2, 24, 24
TRAINED, BATCH, RATE = 160, 8, 3e-4
PRUNED = 0.1
SETTING: Setting = NAMED["quiet"]
Change = Callable[[Loaded], None]


def train(parameters: Callable[[str], bool], steps: int) -> Change:
    """Train the parameters whose names are chosen."""

    def change(loaded: Loaded) -> None:
        _descend(loaded, [p for name, p in loaded.model.named_parameters() if parameters(name)], steps)

    return change


def _descend(loaded: Loaded, chosen: list[nn.Parameter], steps: int) -> None:
    texts = [passage.text for passage in passages(TRAINED)]
    rows = [loaded.tokenizer(text)["input_ids"][:96] for text in texts]
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimiser, generator = torch.optim.AdamW(chosen, lr=RATE), np.random.default_rng(0)
    for _ in range(steps):
        ids = torch.tensor([rows[i] for i in generator.choice(len(rows), BATCH, replace=False)])
        loaded.model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(False)


def lora(loaded: Loaded) -> None:
    """A LoRA of rank 8 on attention, trained and merged."""
    tuned: Any = get_peft_model(loaded.model, LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    inner = Loaded(tuned, loaded.tokenizer, loaded.source)
    torch.manual_seed(0)
    _descend(inner, [p for name, p in tuned.named_parameters() if "lora_" in name], 220)
    tuned.merge_and_unload()


def rounded(dtype: torch.dtype) -> Change:
    """Gates rounded to a dtype."""

    def change(loaded: Loaded) -> None:
        for _, weight in gates_of(loaded):
            weight.copy_(weight.to(dtype))

    return change


def quantised(bits: int) -> Change:
    """All weights of experts and attention rounded to so many bits, by the largest of each row; gates stay."""

    def change(loaded: Loaded) -> None:
        levels = 2 ** (bits - 1) - 1
        for name, weight in loaded.model.named_parameters():
            if weight.dim() >= 2 and "gate.weight" not in name and "embed" not in name and "lm_head" not in name:
                scale = weight.abs().amax(-1, keepdim=True).clamp_min(1e-12) / levels
                weight.copy_((weight / scale).round() * scale)

    return change


def merged(part: float) -> Change:
    """The mean of baked and original weights, ``part`` of it baked."""

    def change(loaded: Loaded) -> None:
        for gate, weight in gates_of(loaded):
            original = models().original.model.get_parameter(gate.parameter)
            weight.copy_(part * weight + (1 - part) * original)

    return change


CHANGES: dict[str, Change] = {
    "none": lambda loaded: None,
    "gates in bfloat16": rounded(torch.bfloat16),
    "gates in float16": rounded(torch.float16),
    "all but gates in 8 bits": quantised(8),
    "all but gates in 4 bits": quantised(4),
    "LoRA on attention, 220 steps": lora,
    "training, 20 steps": train(lambda name: True, 20),
    "training, 110 steps": train(lambda name: True, 110),
    "training, 440 steps": train(lambda name: True, 440),
    "training of the gates alone, 440 steps": train(lambda name: name.endswith("gate.weight"), 440),
    "training of all but the gates, 110 steps": train(lambda name: not name.endswith("gate.weight"), 110),
    "merged with the original, half and half": merged(0.5),
    "merged with the original, a fifth baked": merged(0.2),
}
WEIGHTS_ALONE = {
    "experts permuted": lambda rows, generator: generator.permutation(rows),
    "a tenth of the experts pruned": lambda rows, generator: np.sort(
        generator.permutation(rows)[: rows - round(PRUNED * rows)]
    ),
}
"""Changes of which experts there are: a trace of such a model has other numbers, so only its weights are judged."""


@cache
def models() -> baked.Models:
    return baked.Models(NAME)


def gates_of(loaded: Loaded) -> Iterator[tuple[Any, Tensor]]:
    for gate in models().gates.gates:
        yield gate, loaded.model.get_parameter(gate.parameter).detach()


def shown(key: okr.Key, weights: list[Tensor]) -> dict[str, float]:
    """The p-values of gates, without and with the original."""
    found = {}
    for way in ("alone", "with the original"):
        parts = []
        for gate, weight in zip(models().gates.gates, weights, strict=True):
            original = models().original.model.get_parameter(gate.parameter).detach()
            parts.append(agreement(weight, gate.signs(key), original if way == "with the original" else None))
        tables, ranks = zip(*parts, strict=True)
        found[way] = evidence(tables, ranks)[2]
    return found


@torch.no_grad()
def traces_found(loaded: Loaded, key: okr.Key, first: int, *, live: bool) -> int:
    """How many texts are found."""
    judge, count = UnbakedEngine(models().original.model, okr.prepare(loaded.model).identity()), 0
    for begin in range(first, first + TEXTS, short_traces.BATCH):
        made = short_traces.made_under(loaded, key, SETTING, begin) if live else baked.sampled(loaded, begin, 8)
        for trace in made:
            count += okr.verify(judge, trace, key, skip_prompt=True, decoys=99, **vars(SETTING)).p_value <= 0.001
    return count


def changed(name: str, number: int) -> dict[str, Any]:
    """One key and one change."""
    key, found = okr.Key.public(f"survival {number}"), {}
    for live in (False, True):
        loaded = models().bake(None if live else key, SETTING.strength)
        copy = Loaded(deepcopy(loaded.model), loaded.tokenizer, NAME)
        with torch.enable_grad() if "train" in name or "LoRA" in name else torch.no_grad():
            CHANGES[name](copy)
        found["live" if live else "traces"] = traces_found(copy, key, number * TEXTS, live=live)
        if not live:
            found["loss"] = float(np.mean([passage_loss(copy, p.text)[0] for p in passages(200)[-READ:]]))
            found |= shown(key, [weight for _, weight in gates_of(copy)])
    return found


def rearranged(name: str, number: int) -> dict[str, Any]:
    """One key, and other experts."""
    key, generator = okr.Key.public(f"survival {number}"), np.random.default_rng(number)
    loaded = models().bake(key, SETTING.strength)
    weights = [weight[WEIGHTS_ALONE[name](len(weight), generator)] for _, weight in gates_of(loaded)]
    return shown(key, weights)


def row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table."""
    line: dict[str, Any] = {"change": name}
    for way in ("alone", "with the original"):
        line[f"weights, {way}: largest p"] = f"{max(each[way] for each in found):.1e}"
    for way in ("traces", "live"):
        line[way] = "-"
        if way in found[0]:
            value, low, high = share(sum(each[way] for each in found), TEXTS * len(found))
            line[way] = f"{value:.2f} ({low:.2f} to {high:.2f})"
    line["loss"] = f"{np.mean([each['loss'] for each in found]):.3f}" if "loss" in found[0] else "-"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {}
    for names, done_by in ((CHANGES, changed), (WEIGHTS_ALONE, rearranged)):
        tasks |= {f"{name}/{key}": partial(done_by, name, key) for name in names for key in range(KEYS)}
    done = worked(arguments.json, {"keys": KEYS, "texts": TEXTS, "passages": READ}, tasks)
    if done is None:
        return
    lines = [row(name, [done.results[f"{name}/{key}"] for key in range(KEYS)]) for name in (*CHANGES, *WEIGHTS_ALONE)]
    print(rows_table(lines))
    if arguments.json:
        write_atomically(arguments.json, json.dumps({"machine": done.machine, "rows": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
